// Arrow keys walk along a line of residues; the position's value is said below the sequence.
"use strict";
document.querySelectorAll(".line").forEach((line) => {
  const cells = [...line.children];
  const said = line.closest("section").querySelector("output");
  let at = -1;
  const go = (place) => {
    if (at >= 0) cells[at].classList.remove("at");
    at = Math.max(0, Math.min(cells.length - 1, place));
    cells[at].classList.add("at");
    said.textContent = line.dataset.label + ": " + cells[at].title;
  };
  line.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: cells.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    go(moves[event.key]);
  });
  line.addEventListener("click", (event) => {
    const place = cells.indexOf(event.target);
    if (place >= 0) go(place);
  });
  line.addEventListener("blur", () => {
    if (at >= 0) cells[at].classList.remove("at");
  });
});
