// The page is whole without this. With it, a heading sorts its table, and pictures slide from one view to the next.
"use strict";

// Tables: by number where a column holds any, else by words; what has no number comes last; groups stay together.

const collator = new Intl.Collator("en", { numeric: true });

function numberIn(cell) {
  const found = cell.textContent.replaceAll("−", "-").match(/[-+]?\d+(\.\d+)?/);
  return found && cell.tagName === "TD" ? Number(found[0]) : NaN;
}

function sorted(rows, column, direction) {
  const numbers = new Map(rows.map((row) => [row, numberIn(row.cells[column])]));
  const missing = (row) => Number(Number.isNaN(numbers.get(row)));
  const words = rows.every(missing);
  const compare = (a, b) => words
    ? direction * collator.compare(a.cells[column].textContent, b.cells[column].textContent)
    : missing(a) - missing(b) || direction * (numbers.get(a) - numbers.get(b)) || 0;
  return direction ? [...rows].sort(compare) : rows;
}

function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => row.cells.length === headings.length)]);
  if (bodies.every(([, rows]) => rows.length < 2)) return;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    const turns = column ? [-1, 1, 0] : [1, -1, 0]; // numbers begin with the largest; the third time all is as it was
    let turn = 0;
    button.addEventListener("click", () => {
      const direction = turns[heading.hasAttribute("aria-sort") ? (turn = (turn + 1) % 3) : (turn = 0)];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (direction) heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      bodies.forEach(([body, rows]) => body.append(...sorted(rows, column, direction)));
    });
  });
}

// Numbers that say where they come from: Tab reaches one of a table, and the arrows left and right the others.

function makeRoving(table) {
  const numbers = () => [...table.querySelectorAll(".from")];
  numbers().slice(1).forEach((number) => { number.tabIndex = -1; });
  table.addEventListener("keydown", ({ target: from, key }) => {
    const to = from.matches(".from") && numbers()[numbers().indexOf(from) + { ArrowRight: 1, ArrowLeft: -1 }[key]];
    if (to) [from.tabIndex, to.tabIndex] = [-1, 0];
    if (to) to.focus();
  });
}

// Pictures: the views of each lie on one another, and one slider fades all of them.

function element(tag, className, ...children) {
  const made = Object.assign(document.createElement(tag), { className });
  return made.append(...children), made;
}

function cardOf(row, count) {
  const views = [...row.cells].slice(0, count).map((cell) => cell.querySelector("img").cloneNode());
  return [views, element("li", "", element("div", "stack", ...views), element("p", "", ...row.nextElementSibling.cells[0].cloneNode(true).childNodes))];
}

function makeSlider(table) {
  const names = [...table.tHead.rows[0].cells].slice(0, Number(table.dataset.stops));
  const rows = [...table.tBodies[0].rows].filter((row) => row.querySelector("img"));
  const cards = rows.map((row) => cardOf(row, names.length));
  const range = Object.assign(document.createElement("input"), { type: "range", min: 0, max: names.length - 1, step: 0.1, value: 0 });
  const stops = names.map((name, place) => {
    const stop = element("button", "", ...name.cloneNode(true).childNodes);
    stop.addEventListener("click", () => show(place));
    return stop;
  });
  function show(value) {
    range.value = value;
    const nearest = Math.round(value);
    range.setAttribute("aria-valuetext", names[nearest].textContent);
    stops.forEach((stop, place) => stop.setAttribute("aria-pressed", place === nearest));
    for (const [views] of cards) {
      views.forEach((view, place) => {
        view.style.opacity = place ? Math.min(1, Math.max(0, value - place + 1)) : 1;
        view.setAttribute("aria-hidden", place !== nearest);
      });
    }
  }
  range.setAttribute("aria-label", `From ${names[0].textContent} to ${names.at(-1).textContent}`);
  range.addEventListener("input", () => show(Number(range.value)));
  const control = element("div", "control", range, element("div", "stops", ...stops));
  const whole = table.closest(".scroll") ?? table;
  const slides = element("div", "slides", control, element("ul", "", ...cards.map(([, card]) => card)));
  whole.before(slides);
  slides.after(element("details", "", element("summary", "", "All views side by side"), whole));
  show(0);
}

document.querySelectorAll("table.data").forEach((table) => [makeSortable, makeRoving].forEach((make) => make(table)));
document.querySelectorAll("table.pictures[data-stops]").forEach(makeSlider);
