// Sorting of tables, and the text of the point that is pointed at; without this script the page has all the rest.
"use strict";
const MISSING = new Set(["", "–", "unknown"]);

function numberOf(cell) {
  const found = /^[<>≤≥~ ]*([-+−]?(?:\d[\d,]*\.?\d*(?:e[-+]?\d+)?|∞|inf))/i.exec(cell);
  if (!found) return NaN;
  const text = found[1].replace(/,/g, "").replace("−", "-").replace(/∞|inf/i, "Infinity");
  return Number(text);
}

function sort(table, place, heading) {
  const body = table.tBodies[0];
  const downwards = heading.getAttribute("aria-sort") === "ascending";
  const rows = [...body.rows].map((row) => ({ row, cell: row.cells[place].textContent.trim() }));
  const known = rows.filter(({ cell }) => !MISSING.has(cell));
  const numeric = known.every(({ cell }) => !Number.isNaN(numberOf(cell)));
  const compare = (a, b) => numeric ? numberOf(a.cell) - numberOf(b.cell) : a.cell.localeCompare(b.cell);
  known.sort((a, b) => downwards ? compare(b, a) : compare(a, b));
  const missing = rows.filter(({ cell }) => MISSING.has(cell));
  body.append(...[...known, ...missing].map(({ row }) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", downwards ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("section table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, place, heading));
    heading.append(button);
  });
}

for (const figure of document.querySelectorAll("figure.points")) {
  const said = figure.querySelector(".said");
  const tell = ({ target }) => {
    if (target.tagName !== "circle") return;
    for (const other of figure.querySelectorAll(".chosen")) other.classList.remove("chosen");
    target.classList.add("chosen");
    said.textContent = target.querySelector("title").textContent;
  };
  for (const event of ["pointerover", "click"]) figure.addEventListener(event, tell);
}
