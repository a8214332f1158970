"use strict";
// Sorting and filtering of tables; without it they are only as they came.
const number = (text) => {
  const found = text.replace(/,/g, "").replace("−", "-").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/);
  return found ? Number(found[0]) : NaN;
};
const compare = (a, b) => {
  const x = number(a), y = number(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return a.localeCompare(b);
};
// A cell that holds more than its value, such as details, names the value.
const shown = (cell) => cell.dataset.text ?? cell.textContent.replace(/\s+/g, " ").trim();
const element = (tag, facts, ...children) => {
  const made = Object.assign(document.createElement(tag), facts);
  made.append(...children);
  return made;
};

const sortable = (table) => {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (cell.classList.contains("bar-head")) return;
    const button = element("button", { type: "button" }, ...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = cell.classList.contains("n");
      const text = (row) => shown(row.cells[column]);
      const rows = [...body.rows].sort((a, b) =>
        numeric ? compare(text(a), text(b)) : text(a).localeCompare(text(b))
      );
      if (down) rows.reverse();
      body.append(...rows);
    });
  });
};

let tables = 0;
const tools = (table) => {
  const id = `filter-${(tables += 1)}`;
  const total = table.tBodies[0].rows.length;
  const said = element("span", { className: "said" });
  said.setAttribute("role", "status");
  const filter = element("input", { type: "search", id, placeholder: "words that a row must hold" });
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += row.hidden ? 0 : 1;
    }
    said.textContent = words.length ? `${left} of ${total} rows` : "";
  });
  const label = element("label", { htmlFor: id }, "Filter");
  const bar = element("div", { className: "tools" }, label, filter, said);
  (table.closest(".scroll") ?? table).before(bar);
};

// Sheets: links to CSV that the page holds. Opened, each is drawn as a table.
const parsed = (text) => {
  const rows = [[]];
  for (const [, cell, end] of text.matchAll(/("(?:[^"]|"")*"|[^,\n]*)(,|\n)/g)) {
    const plain = cell.startsWith('"') ? cell.slice(1, -1).replace(/""/g, '"') : cell;
    rows.at(-1).push(plain.replace(/^'(?=[=+\-@\t])/, ""));
    if (end === "\n") rows.push([]);
  }
  return rows.slice(0, -1);
};
const draw = (link) => {
  const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (sign) => sign.charCodeAt(0));
  const [headings, ...rows] = parsed(new TextDecoder().decode(bytes));
  const right = headings.map((_, i) => i > 0 && rows.every((row) => /^$|^[[+\-−<]*\s*\d/.test(row[i])));
  const cells = (tag, texts, facts) => element("tr", {}, ...texts.map((text, i) => element(tag, { ...facts, className: right[i] ? "n" : "" }, text)));
  const table = element(
    "table", { className: "sortable tight" }, element("thead", {}, cells("th", headings, { scope: "col" })),
    element("tbody", {}, ...rows.map((row) => cells("td", row, {}))),
  );
  const frame = element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: link.textContent }, table);
  link.parentElement.after(frame);
  sortable(table);
  tools(table);
};
document.getElementById("every")?.addEventListener("toggle", () => document.querySelectorAll("a.sheet").forEach(draw), { once: true });

for (const table of document.querySelectorAll("table.sortable")) {
  sortable(table);
  if (table.classList.contains("tools-above")) tools(table);
}

// Captions: to the clipboard; a page that may not write there selects the text instead.
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  const name = button.textContent;
  button.addEventListener("click", async () => {
    const caption = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(caption.textContent.trim());
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(caption);
      button.textContent = "selected: copy it with the keyboard";
    }
    setTimeout(() => (button.textContent = name), 2500);
  });
}
