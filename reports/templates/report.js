"use strict";
(function () {
  const page = document.body;
  const root = document.documentElement;

  // What the heat map shows: the style sheet picks one of three numbers in each cell.
  const choices = Array.from(document.querySelectorAll("[data-metric]"));
  for (const button of choices) {
    button.addEventListener("click", function () {
      page.dataset.show = button.dataset.metric;
      for (const other of choices) other.setAttribute("aria-pressed", String(other === button));
    });
  }

  document.getElementById("theme").addEventListener("click", function () {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = root.dataset.theme || (dark ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // Only kernels whose name holds every word that was typed.
  document.getElementById("filter").addEventListener("input", function (event) {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of document.querySelectorAll("[data-kernel]")) {
      const name = row.dataset.kernel.toLowerCase();
      row.classList.toggle("hidden", !words.every((word) => name.includes(word)));
    }
  });

  // Sorting: a heading becomes a button; numbers by data-sort where the text is not one.
  function value(row, column) {
    const cell = row.cells[column];
    if (!cell) return "";
    const said = cell.dataset.sort !== undefined ? cell.dataset.sort : cell.textContent.trim();
    const number = Number(said);
    return said !== "" && Number.isFinite(number) ? number : said;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      const button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = Array.from(body.rows);
        rows.sort((a, b) => (up ? 1 : -1) * compare(value(a, column), value(b, column)));
        for (const row of rows) body.appendChild(row);
      });
    });
  }
})();
