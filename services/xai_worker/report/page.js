"use strict";
// Nothing here is needed to read the page: it adds values under the pointer, keys, downloads, sorting and searching.
(() => {
  const holder = document.getElementById("data");
  const data = holder ? JSON.parse(holder.textContent) : null;
  const tip = document.getElementById("tip");
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Number(Math.abs(value).toPrecision(4));

  // Values: one small box, beside the pointer or the focused mark; it is a live region, so that it is heard too.
  const say = (text, box) => {
    tip.textContent = text;
    tip.hidden = false;
    const left = Math.min(box.left + box.width / 2 + 12, innerWidth - tip.offsetWidth - 8);
    const below = box.bottom + 10 + tip.offsetHeight < innerHeight;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (below ? box.bottom + 10 : Math.max(8, box.top - tip.offsetHeight - 10)) + "px";
  };
  const hush = () => { tip.hidden = true; };
  const at = (event) => ({ left: event.clientX, width: 0, top: event.clientY, bottom: event.clientY + 6 });
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark) say(mark.dataset.tip, at(event));
  });
  document.addEventListener("pointerout", (event) => { if (event.target.closest("[data-tip]")) hush(); });
  document.addEventListener("focusin", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark && mark.matches(":focus-visible")) say(mark.dataset.tip, mark.getBoundingClientRect());
  });
  document.addEventListener("focusout", hush);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });
  // Not "scroll": moving the focus scrolls too, and its value must stay.
  for (const kind of ["wheel", "touchmove"]) addEventListener(kind, hush, { passive: true });

  // A place that arrow keys move, kept inside `last`.
  const walker = (element, last, moves, show) => {
    let place = -1;
    const go = (next, box) => {
      place = Math.max(0, Math.min(last, next));
      show(place, box);
    };
    element.addEventListener("keydown", (event) => {
      const next = moves(event.key, place);
      if (next === undefined) return;
      event.preventDefault();
      go(next);
    });
    return go;
  };
  const along = (last) => (key, place) =>
    ({ ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: last, PageDown: place + 10, PageUp: place - 10 })[key];
  const residue = (place, value) =>
    data.sequence[place] + (place + 1) + " " + (value === null ? "not seen by the model" : signed(value));

  document.querySelectorAll(".track").forEach((track) => {
    const found = data.terms[track.dataset.term].tracks[track.dataset.track];
    const [hit, cursor] = [track.querySelector(".hit"), track.querySelector(".cursor")];
    const length = found.values.length;
    const show = (place, box) => {
      const x = ((place + 0.5) * 1000) / length;
      cursor.setAttribute("transform", "translate(" + x + " 0)");
      cursor.setAttribute("visibility", "visible");
      const own = hit.getBoundingClientRect();
      const left = own.left + (x / 1000) * own.width;
      say(residue(place, found.values[place]), box || { left, width: 0, top: own.top, bottom: own.bottom });
    };
    const go = walker(track, length - 1, along(length - 1), show);
    track.addEventListener("pointermove", (event) => {
      const own = hit.getBoundingClientRect();
      go(Math.floor(((event.clientX - own.left) / own.width) * length), at(event));
    });
    const leave = () => { cursor.setAttribute("visibility", "hidden"); hush(); };
    track.addEventListener("pointerleave", leave);
    track.addEventListener("blur", leave);
  });

  document.querySelectorAll(".line").forEach((line) => {
    const cells = [...line.children];
    let marked = null;
    const mark = (cell) => {
      if (marked) marked.classList.remove("at");
      if (cell) cell.classList.add("at");
      marked = cell;
    };
    walker(line, cells.length - 1, along(cells.length - 1), (place) => {
      mark(cells[place]);
      say(cells[place].dataset.tip, cells[place].getBoundingClientRect());
    });
    line.addEventListener("blur", () => mark(null));
  });

  document.querySelectorAll(".heatmap").forEach((figure) => {
    const map = data.terms[figure.dataset.term].heatmaps[figure.dataset.map];
    const picture = figure.querySelector(".heat");
    const [columns, rows] = [data.sequence.length, map.alphabet.length];
    const show = (place, box) => {
      const [row, column] = [place % rows, Math.floor(place / rows)];
      const [value, from, to] = [map.values[row][column], data.sequence[column], map.alphabet[row]];
      const said = from === to ? "is " + from : value === null ? "not scanned" : signed(value);
      const own = picture.getBoundingClientRect();
      const left = own.left + ((column + 0.5) / columns) * own.width;
      const top = own.top + (row / rows) * own.height;
      say(from + (column + 1) + to + " " + said, box || { left, width: 0, top, bottom: top + own.height / rows });
    };
    const moves = (key, place) =>
      ({ ArrowRight: place + rows, ArrowLeft: place - rows, ArrowDown: place + 1, ArrowUp: place - 1, Home: 0 })[key];
    const go = walker(picture, rows * columns - 1, moves, show);
    picture.addEventListener("pointermove", (event) => {
      const own = picture.getBoundingClientRect();
      const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - own.left) / own.width) * columns)));
      const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - own.top) / own.height) * rows)));
      go(column * rows + row, at(event));
    });
    picture.addEventListener("pointerleave", hush);
  });

  // Downloads of what the page itself holds: they work when the file was mailed without its folder.
  const field = (text) => '"' + String(text).replaceAll('"', '""') + '"';
  const writers = {
    csv: () => ["protein,term,model,method,position,residue,value", ...data.terms.flatMap((term) =>
      term.tracks.flatMap((track) => track.values.map((value, place) => [field(data.protein), field(term.term),
        field(track.model), field(track.method), place + 1, data.sequence[place], value === null ? "" : value].join(",")))),
      ""].join("\r\n"),
    json: () => JSON.stringify({ protein: data.protein, sequence: data.sequence, terms: data.terms }) + "\n",
    fasta: () => ">" + data.protein + "\n" + data.sequence.replace(/(.{60})(?=.)/g, "$1\n") + "\n",
  };
  document.querySelectorAll("[data-save]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([writers[button.dataset.save]()]));
      link.download = data.protein.replace(/[^A-Za-z0-9._-]+/g, "_") + "." + button.dataset.save;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  });

  // The index: sort by a column, keep the rows in which every word occurs.
  document.querySelectorAll("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const numeric = head.dataset.kind === "number";
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : numeric;
        const key = (row) => {
          const cell = row.cells[column];
          if (!numeric) return cell.textContent.trim();
          return cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value);
        };
        const order = numeric ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
        rows.slice().sort((a, b) => (down ? order(b, a) : order(a, b))).forEach((row) => body.append(row));
        [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      });
    });
    const [search, found] = [document.getElementById("search"), document.getElementById("found")];
    search.closest(".search").hidden = false;
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row, place) => {
        row.hidden = !words.every((word) => texts[place].includes(word));
        count += row.hidden ? 0 : 1;
      });
      found.textContent = words.length ? count + " of " + rows.length : "";
    });
  });

  document.querySelectorAll(".zoom").forEach((panel) => {
    panel.addEventListener("toggle", () => {
      const place = panel.querySelector(".zoom-panel");
      if (panel.open && !place.firstChild) window.gowhyTracks(place, data.sequence, data.terms[panel.dataset.term].tracks);
    });
  });

  if (data && data.structure && window.gowhyViewer) {
    const [view, chooser] = [document.getElementById("structure-view"), document.getElementById("structure-track")];
    const draw = window.gowhyViewer(view, data.structure, { say: (text, event) => say(text, at(event)), hush });
    if (draw) {
      const choose = () => {
        const [term, track] = chooser.value.split(",");
        draw(data.terms[term].tracks[track].values, residue);
      };
      chooser.addEventListener("change", choose);
      choose();
    }
  }
})();
