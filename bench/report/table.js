"use strict";
// Turns the headings of sortable tables into buttons; without it the tables are only unsorted.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
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
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (cell.classList.contains("bar-head")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = cell.classList.contains("n");
      const text = (row) => row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) =>
        numeric ? compare(text(a), text(b)) : text(a).localeCompare(text(b))
      );
      if (down) rows.reverse();
      body.append(...rows);
    });
  });
}
