const body = document.querySelector("#cohort tbody");
const heads = [...document.querySelectorAll("#cohort th[data-sort]")];
const value = (row, place) => row.cells[place].dataset.value ?? "";

function sort(head, order) {
  const numeric = head.dataset.sort === "number";
  const compare = (a, b) => {
    const [x, y] = [value(a, head.cellIndex), value(b, head.cellIndex)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return order * (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
  };
  body.append(...[...body.rows].sort(compare));
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
}

for (const head of heads) {
  const toggle = () => {
    const now = head.getAttribute("aria-sort");
    sort(head, now ? (now === "ascending" ? -1 : 1) : head.dataset.sort === "number" ? -1 : 1);
  };
  head.tabIndex = 0;
  head.addEventListener("click", toggle);
  head.addEventListener("keydown", (event) => event.key === "Enter" && toggle());
}

for (const chip of document.querySelectorAll(".chips button")) {
  chip.addEventListener("click", () => {
    const pressed = chip.getAttribute("aria-pressed") !== "true";
    document.querySelectorAll(".chips button").forEach((other) => other.setAttribute("aria-pressed", "false"));
    chip.setAttribute("aria-pressed", pressed);
    const kind = chip.dataset.kind;
    for (const row of body.rows) row.hidden = pressed && !row.dataset.kinds.split("|").includes(kind);
  });
}
