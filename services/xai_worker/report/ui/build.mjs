// Builds the page's libraries into dist/, one classic script each: what a page inlines, it inlines whole.
import { build } from "esbuild";
import { mkdir, rm } from "node:fs/promises";

await rm("dist", { recursive: true, force: true });
await mkdir("dist");
await build({
  entryPoints: { viewer: "src/viewer.js", tracks: "src/tracks.js" },
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "inline",
  charset: "ascii",
  ignoreAnnotations: true, // nightingale says that its elements have no side effects; registering them is one
  logLevel: "warning",
});
