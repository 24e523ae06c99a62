// The zoom panel: nightingale's navigation, sequence and line graphs, moved together by its manager.
import "@nightingale-elements/nightingale-manager";
import "@nightingale-elements/nightingale-navigation";
import "@nightingale-elements/nightingale-sequence";
import "@nightingale-elements/nightingale-linegraph-track";

const COLOURS = ["#a14500", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"];

// Fills an element with tracks: {model, method, values}; null values leave gaps.
window.gowhyTracks = (element, sequence, tracks) => {
  const length = sequence.length;
  const shared = { length, "display-start": 1, "display-end": length, "margin-left": 8, "margin-right": 8 };
  const make = (tag, own) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries({ ...shared, ...own })) made.setAttribute(key, value);
    return made;
  };
  const width = Math.max(400, element.clientWidth || 1000);
  const manager = document.createElement("nightingale-manager");
  const letters = make("nightingale-sequence", { width, height: 34, sequence });
  manager.append(make("nightingale-navigation", { width, height: 44 }), letters);
  tracks.forEach((track, index) => {
    const label = document.createElement("div");
    label.className = "track-name small";
    label.textContent = track.model + " " + track.method;
    const line = make("nightingale-linegraph-track", { width, height: 64, id: "zoom-" + Math.random().toString(36).slice(2) });
    const limit = Math.max(...track.values.map((value) => Math.abs(value ?? 0))) || 1;
    const values = track.values.flatMap((value, i) => (value === null ? [] : [{ position: i + 1, value }]));
    line.data = [{ name: label.textContent, range: [-limit, limit], color: COLOURS[index % COLOURS.length], lineCurve: "curveStep", values }];
    manager.append(label, line);
  });
  letters.data = sequence;
  element.replaceChildren(manager);
};
