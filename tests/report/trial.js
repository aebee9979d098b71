// What test_browser.py looks at: `pages`, HTML by name, each in a frame as wide as a phone and as a desktop.
"use strict";
const outcome = { problems: [] };

async function frame(text, width) {
  const made = Object.assign(document.createElement("iframe"), { width, height: 2000, srcdoc: text });
  const loaded = new Promise((done) => made.addEventListener("load", done));
  document.body.append(made);
  await loaded;
  const page = made.contentDocument;
  const outside = [...page.querySelectorAll("body *")].filter((one) => {
    const box = one.getBoundingClientRect();
    const outside = box.width && (box.right > width + 1 || box.left < -1);
    return (outside || one.clientWidth && one.scrollWidth > one.clientWidth + 1) && !one.closest(".scroll, svg, pre");
  });
  const captions = [...page.querySelectorAll("caption > span")].map((one) => one.getBoundingClientRect().right - width);
  return {
    page,
    found: {
      cut: outside.map((one) => one.outerHTML.slice(0, 120)),
      wide: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      captions: Math.max(...captions),
      spills: [...page.querySelectorAll(".scroll")].filter(({ firstElementChild: held, clientWidth, scrollWidth }) =>
        held.offsetWidth <= clientWidth && scrollWidth > clientWidth).length,
      buttons: page.querySelectorAll("th button").length,
      pictures: page.querySelectorAll("table.pictures img").length,
      hidden: page.querySelectorAll("details table.pictures img").length,
    },
  };
}

const column = (rows, place) => [...rows].map((row) => row.cells[place].textContent.trim());

function sortTables(page) {
  const table = page.getElementById("table-accuracy").closest("table");
  const rows = () => table.tBodies[0].rows;
  const [words, numbers] = table.tHead.rows[0].cells;
  outcome.turns = [column(rows(), 1)];
  for (let turn = 0; turn < 3; turn++) {
    numbers.querySelector("button").click();
    outcome.turns.push([numbers.getAttribute("aria-sort"), ...column(rows(), 1)]);
  }
  words.querySelector("button").click();
  outcome.words = column(rows(), 0);
  const grouped = page.getElementById("table-corruptions").closest("table");
  grouped.tHead.rows[0].cells[2].querySelector("button").click();
  outcome.groups = [...grouped.tBodies].map((body) => column(body.rows, 0));
  outcome.numbers = [...grouped.tBodies].map((body) => column([...body.rows].slice(1), 2));
}

function slide(page) {
  const range = page.querySelector("input[type=range]");
  const shown = () => [...page.querySelector(".stack").children].map((view) => Number(view.style.opacity));
  outcome.slid = [shown()];
  for (const value of [0.5, 1, 2]) {
    range.value = value;
    range.dispatchEvent(new page.defaultView.Event("input"));
    outcome.slid.push(shown());
  }
  range.focus();
  const { min, max, step } = range;
  outcome.range = { min, max, step, focused: page.activeElement === range, says: range.getAttribute("aria-valuetext") };
  page.querySelectorAll(".stops button")[1].click();
  outcome.stop = [range.value, shown(), page.querySelectorAll(".stops [aria-pressed=true]").length];
}

// A number tells where it comes from: with the script and without, by press and by arrows.

function tell(page) {
  const table = page.getElementById("table-accuracy").closest("table");
  const numbers = [...table.querySelectorAll("button.from")];
  numbers[1].click();
  const told = page.getElementById(numbers[1].getAttribute("popovertarget"));
  const box = told.getBoundingClientRect();
  const found = {
    open: told.matches(":popover-open"),
    inside: box.left >= 0 && box.right <= 390,
    title: told.firstElementChild.textContent,
    facts: Object.fromEntries([...told.querySelectorAll("dt")].map((name) => [name.textContent, name.nextElementSibling.textContent])),
    number: numbers[1].textContent,
    stops: numbers.filter((number) => number.tabIndex === 0).length,
    all: numbers.length,
  };
  told.querySelector("button").click();
  found.closed = !told.matches(":popover-open");
  return found;
}

function walk(page) {
  const table = page.getElementById("table-corruptions").closest("table");
  const place = () => [page.activeElement.closest("tr").rowIndex, page.activeElement.closest("td").cellIndex];
  table.querySelector("button.from").focus();
  outcome.walked = [place()];
  for (const key of ["ArrowRight", "a", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"]) {
    page.activeElement.dispatchEvent(new page.defaultView.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    outcome.walked.push(place());
  }
  outcome.reached = table.querySelectorAll('button.from[tabindex="0"]').length;
}

async function trials() {
  for (const [name, text] of Object.entries(pages)) {
    const bare = await frame(text.replace(/<script>[^]*<\/script>/, ""), 390);
    outcome[`${name} without`] = bare.found;
    outcome[`${name} at 1280`] = (await frame(text, 1280)).found;
    const { page, found } = await frame(text, 390);
    outcome[`${name} at 390`] = found;
    if (name === "report") {
      sortTables(page);
      slide(page);
      [outcome.told, outcome["told without"]] = [tell(page), tell(bare.page)];
      walk(page);
    }
  }
}

trials().catch((error) => outcome.problems.push(String(error))).finally(() => {
  const told = Object.assign(document.createElement("pre"), { id: "outcome", textContent: JSON.stringify(outcome) });
  document.body.replaceChildren(told);
});
