// Without this script everything works by links and buttons; with it, a choice shows at once, and
// the tables of a static site can be sorted.
"use strict";

for (const select of document.querySelectorAll(".filters select, .filters input[type=date]")) {
  select.addEventListener("change", () => select.form?.requestSubmit());
}

const boxes = [...document.querySelectorAll('.board input[type="checkbox"]')];
for (const box of boxes) {
  box.addEventListener("change", () => {
    const chosen = boxes.filter((one) => one.checked).length;
    for (const one of boxes) one.disabled = chosen >= 5 && !one.checked;
  });
}

function valueOf(cell) {
  const text = cell.textContent.trim();
  const number = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

for (const table of document.querySelectorAll("table.board")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    if (head.querySelector("a, abbr") || "plain" in head.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, two) => {
        const [a, b] = [valueOf(one.cells[column]), valueOf(two.cells[column])];
        if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
        return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Pages of questions in a static site: the choice is made here, as there is no service to ask.
for (const filter of document.querySelectorAll(".questions-filter")) {
  filter.hidden = false;
  filter.addEventListener("change", () => {
    const chosen = [...filter.querySelectorAll("select")].filter((select) => select.value);
    for (const question of document.querySelectorAll("li.question")) {
      question.hidden = !chosen.every((select) => question.dataset[select.name] === select.value);
    }
  });
}
