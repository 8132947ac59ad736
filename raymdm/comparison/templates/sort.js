"use strict";
// Tables of numbers are sorted by a press on a column's head; the page reads the same without this script.
const valueOf = (row, place) => {
  const cell = row.children[place];
  if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
  const text = cell.textContent.trim();
  return text === "–" ? null : text;
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
const sortBy = (table, place, direction) => {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, value: valueOf(row, place) }));
  // a cell without a number stays last in both directions
  rows.sort((a, b) =>
    a.value === null || b.value === null ? (a.value === null) - (b.value === null) : direction * compare(a.value, b.value)
  );
  body.append(...rows.map((entry) => entry.row));
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, place, ascending ? 1 : -1);
    });
  });
}
// browsers without ::details-content print what is open
const closed = [];
addEventListener("beforeprint", () => {
  closed.push(...document.querySelectorAll("details:not([open])"));
  closed.forEach((part) => { part.open = true; });
});
addEventListener("afterprint", () => {
  closed.splice(0).forEach((part) => { part.open = false; });
});
