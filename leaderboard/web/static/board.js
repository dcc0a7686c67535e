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
    const chosen = [...filter.querySelectorAll("select[name]")].filter((select) => select.value);
    for (const question of document.querySelectorAll("li.question")) {
      question.hidden = !chosen.every((select) => question.dataset[select.name] === select.value);
    }
  });
}

// The answers of another row, from the file that the site has of them.
function answerOf(answer) {
  const parts = [];
  if (answer.correct !== undefined) parts.push(answer.correct ? "right" : "wrong");
  if (answer.generated !== undefined) parts.push(answer.generated);
  else if (answer.predicted !== undefined) parts.push(`chose ${[answer.predicted].flat().join(", ")}`);
  if (answer.nats !== undefined && answer.num_bytes)
    parts.push(`bits per byte ${(answer.nats / Math.LN2 / answer.num_bytes).toFixed(4)}`);
  return parts.join("; ");
}

for (const select of document.querySelectorAll(".rival-file")) {
  const status = select.closest("div").querySelector("[role=status]");
  select.addEventListener("change", async () => {
    for (const shown of document.querySelectorAll(".rival-answer")) shown.remove();
    status.textContent = "";
    if (!select.value) return;
    let page;
    try {
      page = await (await fetch(select.value)).json();
    } catch {
      status.textContent = "the file of its answers could not be read";
      return;
    }
    const name = select.selectedOptions[0].textContent;
    const list = document.querySelector("ol.questions");
    const apart = [];
    for (const answer of page.questions) {
      const question = document.querySelector(`li.question[data-number="${Number(answer.row)}"]`);
      if (!question) continue;
      const line = document.createElement("div");
      line.className = "rival-answer";
      const [title, text] = [document.createElement("dt"), document.createElement("dd")];
      title.textContent = name;
      text.textContent = answerOf(answer);
      line.append(title, text);
      question.querySelector("dl.answers").append(line);
      const other = answer.correct ? "right" : "wrong";
      if (answer.correct !== undefined && question.dataset.show !== other) apart.push(question);
    }
    list.prepend(...apart);
    status.textContent = `they differ in ${apart.length} of these questions; those come first`;
  });
}

for (const filter of document.querySelectorAll(".board-filter")) {
  filter.hidden = false;
  const input = filter.querySelector("input");
  input.addEventListener("input", () => {
    const text = input.value.toLowerCase();
    let shown = 0;
    for (const row of document.querySelectorAll("table.board tbody tr")) {
      row.hidden = !row.querySelector("th").textContent.toLowerCase().includes(text);
      shown += row.hidden ? 0 : 1;
    }
    filter.querySelector("[role=status]").textContent = `${shown} ${shown === 1 ? "row" : "rows"}`;
  });
}

// Rows of a static site are compared by a page that reads their files.
for (const form of document.querySelectorAll(".compare-form")) {
  for (const cell of form.querySelectorAll(".choose")) cell.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const ids = boxes.filter((box) => box.checked).map((box) => box.value);
    location.href = `${form.getAttribute("action")}#${ids.join(",")}`;
  });
}
