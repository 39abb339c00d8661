"use strict";
// A click on a column's name sorts by it, a second click the other way, a third restores the paper's order.
// Numbers start with the highest, words with A.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const paperOrder = [...body.rows];
  const headers = [...table.tHead.rows].at(-1).cells;
  for (const [column, header] of [...headers].entries()) {
    const numeric = paperOrder.some((row) => !Number.isNaN(valueOf(cellAt(row, column))));
    const turns = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
    header.querySelector("button").addEventListener("click", () => {
      const next = turns[turns.indexOf(header.getAttribute("aria-sort")) + 1];
      for (const other of headers) other.removeAttribute("aria-sort");
      if (next) header.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const byColumn = (a, b) => compare(cellAt(a, column), cellAt(b, column), sign);
      body.append(...(next ? [...paperOrder].sort(byColumn) : paperOrder));
    });
  }
}

// The cell that covers a column: some are several columns wide.
function cellAt(row, column) {
  let first = 0;
  for (const cell of row.cells) {
    first += cell.colSpan;
    if (column < first) return cell;
  }
}

function valueOf(cell) {
  return parseFloat(cell.dataset.value ?? cell.textContent);
}

// Numbers by size and words by the alphabet; cells without a number come last in either direction.
function compare(a, b, sign) {
  const [first, second] = [valueOf(a), valueOf(b)];
  if (Number.isNaN(first) && Number.isNaN(second)) {
    return sign * a.textContent.trim().localeCompare(b.textContent.trim());
  }
  if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) ? 1 : -1;
  return sign * (first - second);
}
