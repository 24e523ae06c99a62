// The structure view: a cartoon, coloured residue by residue, with values under the pointer.
import * as $3Dmol from "3dmol/build/3Dmol-min.js";

const ANCHORS = [[0x1f, 0x4e, 0x9c], [0x7f, 0xb0, 0xde], [0xf7, 0xf7, 0xf7], [0xf2, 0xae, 0x66], [0xa1, 0x45, 0x00]];
const UNSEEN = 0xc6ccd6;
const TOP = 10;

const colour = (share) => {
  const place = ((Math.min(1, Math.max(-1, share)) + 1) / 2) * (ANCHORS.length - 1);
  const low = Math.min(Math.floor(place), ANCHORS.length - 2);
  const mixed = ANCHORS[low].map((part, i) => Math.round(part + (place - low) * (ANCHORS[low + 1][i] - part)));
  return (mixed[0] << 16) | (mixed[1] << 8) | mixed[2];
};
const name = (chain, number, insertion) => chain + "/" + number + (insertion || "").trim();

// Returns a function that colours the structure by values, or null where WebGL is missing.
window.gowhyViewer = (element, structure, tip) => {
  const library = $3Dmol.createViewer ? $3Dmol : window.$3Dmol;
  let viewer;
  try {
    viewer = library.createViewer(element, { backgroundColor: "white", antialias: true });
    if (!viewer) return null;
    viewer.addModel(structure.text, structure.format);
  } catch (error) {
    console.warn("no 3D view: " + error.message);
    return null;
  }
  element.querySelector("p")?.remove();
  const positions = new Map(structure.places.map(([position, chain, number, insertion]) =>
    [name(chain, number, insertion), position]));
  const of = (atom) => positions.get(name(atom.chain, atom.resi, atom.icode));
  viewer.zoomTo();
  return (values, describe) => {
    const limit = Math.max(...values.map((value) => Math.abs(value ?? 0))) || 1;
    const colorfunc = (atom) => {
      const value = values[(of(atom) ?? 0) - 1];
      return value === undefined || value === null ? UNSEEN : colour(value / limit);
    };
    viewer.setStyle({}, { cartoon: { colorfunc, arrows: true } });
    // Sticks at the residues that raise the score most: a ribbon seen edge-on hides its colour.
    const best = values.map((value, i) => [value ?? 0, i + 1]).filter(([value]) => value > 0)
      .sort((a, b) => b[0] - a[0]).slice(0, TOP).map(([, position]) => position);
    viewer.addStyle({ predicate: (atom) => best.includes(of(atom)) }, { stick: { radius: 0.28, colorfunc } });
    viewer.addStyle({ hetflag: true }, { stick: { radius: 0.15 } });
    viewer.setHoverable({}, true,
      (atom, _, event) => {
        const position = of(atom);
        const place = { clientX: event?.clientX ?? event?.x ?? 0, clientY: event?.clientY ?? event?.y ?? 0 };
        tip.say(position ? describe(position - 1, values[position - 1]) : atom.resn + " " + atom.resi, place);
      },
      () => tip.hush());
    viewer.render();
    element.dataset.coloured = String(positions.size);
  };
};
