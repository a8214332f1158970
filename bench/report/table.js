"use strict";
// Sorting, filtering and copying of tables; without it they are only as they came.
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

// What is shown of a table: headings, then the rows that the filter leaves.
const lines = (table) => {
  const cells = [...table.tHead.rows[0].cells];
  const kept = cells.map((cell, i) => [cell, i]).filter(([cell]) => !cell.classList.contains("bar-head"));
  const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
  return [kept.map(([cell]) => shown(cell)), ...rows.map((row) => kept.map(([, i]) => shown(row.cells[i])))];
};
const asCsv = (rows) =>
  rows.map((row) => row.map((cell) => (/[",\n]/.test(cell) ? `"${cell.replace(/"/g, '""')}"` : cell)).join(",")).join("\n") + "\n";
const TEX = {
  "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}", "±": "$\\pm$",
  "−": "$-$", "→": "$\\to$", "≤": "$\\leq$", "<": "\\textless{}", ">": "\\textgreater{}",
};
const asTex = (rows) => {
  const safe = (cell) => [...cell].map((sign) => TEX[sign] ?? sign).join("");
  const [head, ...rest] = rows.map((row) => row.map(safe).join(" & ") + " \\\\");
  const columns = "l".repeat(rows[0].length);
  return ["\\begin{tabular}{" + columns + "}", "\\toprule", head, "\\midrule", ...rest, "\\bottomrule", "\\end{tabular}", ""].join("\n");
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
  const sheet = element("textarea", { readOnly: true, hidden: true, rows: 6 });
  sheet.setAttribute("aria-label", "Text to copy");
  const copier = (name, write) => {
    const button = element("button", { type: "button", className: "tool" }, `Copy ${name}`);
    button.addEventListener("click", async () => {
      const text = write(lines(table));
      try {
        await navigator.clipboard.writeText(text);
        sheet.hidden = true;
        said.textContent = `${name} copied`;
      } catch {
        // A page that may not write to the clipboard shows the text, selected.
        sheet.hidden = false;
        sheet.value = text;
        sheet.select();
        said.textContent = `${name} below, selected: copy it with the keyboard`;
      }
    });
    return button;
  };
  const label = element("label", { htmlFor: id }, "Filter");
  const bar = element("div", { className: "tools" }, label, filter, copier("CSV", asCsv), copier("TeX", asTex), said, sheet);
  (table.closest(".scroll") ?? table).before(bar);
};

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
