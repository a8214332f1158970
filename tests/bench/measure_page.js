// Where texts of a page lie: boxes of the letters of every line, in HTML and in drawings. Named are
// those that overlap, that a box cuts off, that lie outside the page or in the hidden part of a frame
// that scrolls, and those smaller than 12 px.
() => {
  const found = { overlaps: [], clipped: [], outside: [], small: [], framed: [] };
  const width = document.documentElement.clientWidth;
  const show = (box) => `${box.text.slice(0, 40)} [${[box.left, box.top, box.right, box.bottom].map(Math.round)}]`;
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const owner = node.parentElement, text = node.data.trim();
    if (!text || owner.closest("script, style, title, desc, .hidden, .skip, option, textarea")) continue;
    if (!owner.checkVisibility({ contentVisibilityAuto: true, opacityProperty: true, visibilityProperty: true })) continue;
    const svg = owner.closest("svg");
    const style = getComputedStyle(owner);
    const size = parseFloat(style.fontSize) * (svg ? owner.getScreenCTM().d : 1);
    if (size < 11.95) found.small.push(`${text.slice(0, 40)} ${size.toFixed(2)}`);
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of svg ? [owner.getBoundingClientRect()] : range.getClientRects()) {
      if (rect.width < 1 || rect.height < 1) continue;
      // A line is higher than its letters: what may not touch is the letters.
      const inset = Math.max(0, (rect.height - 0.72 * size) / 2);
      const box = { text, owner, left: rect.left + 0.5, right: rect.right - 0.5, top: rect.top + inset, bottom: rect.bottom - inset };
      let frame = null;
      for (let up = owner; up && up !== document.body; up = up.parentElement) {
        const how = getComputedStyle(up);
        if (how.webkitLineClamp !== "none") { frame = up; break; }
        if (how.overflowX === "visible" || up.closest("svg")) continue;
        const edge = up.getBoundingClientRect();
        if (/auto|scroll/.test(how.overflowX)) { frame = up; break; }
        if (box.left < edge.left - 1 || box.right > edge.right + 1) found.clipped.push(show(box));
      }
      if (frame) {
        const edge = frame.getBoundingClientRect();
        if (box.right < edge.left || box.left > edge.right || box.bottom < edge.top || box.top > edge.bottom) continue;
        if (box.right > edge.right + 1) found.framed.push(show(box));
        Object.assign(box, { left: Math.max(box.left, edge.left), right: Math.min(box.right, edge.right) });
      } else if (box.left < -1 || box.right > width + 1) found.outside.push(show(box));
      boxes.push(box);
    }
  }
  boxes.sort((a, b) => a.top - b.top);
  boxes.forEach((a, i) => {
    for (let j = i + 1; j < boxes.length && boxes[j].top < a.bottom - 1; j++) {
      const b = boxes[j];
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) < 1.5 || Math.min(a.bottom, b.bottom) - b.top < 1.5) continue;
      const stuck = [a, b].filter((box) => box.owner.closest("thead, tr > :first-child, .switch"));
      if (stuck.length === 1 && stuck[0].owner.closest(".scroll, .switch")) continue;
      found.overlaps.push(`${show(a)} × ${show(b)}`);
    }
  });
  return { ...found, wide: document.documentElement.scrollWidth > width ? document.documentElement.scrollWidth : 0, height: document.documentElement.scrollHeight };
}
