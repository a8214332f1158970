// What the theme makes while a page loads, for those who use a keyboard or a screen reader: a name
// for each button that copies code, and a place in the order of the tab key for each wide table.
const reach = () => {
  document.querySelectorAll(".md-code__nav").forEach((nav, n) => nav.setAttribute("aria-label", `Code ${n + 1}`));
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((table) => table.setAttribute("tabindex", "0"));
};
reach();
new MutationObserver(reach).observe(document.body, { childList: true, subtree: true });
