// Put the bundled program and the style into page.html: one file that needs nothing else.
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const result = await build({
  entryPoints: ["main.js"],
  bundle: true,
  minify: true,
  format: "iife", // not a module: modules wait for the whole page, and the first image must not
  target: "es2022",
  legalComments: "eof",
  define: { "import.meta.url": '"about:blank"' },
  alias: { "@sparkjsdev/spark": "./node_modules/@sparkjsdev/spark/dist/spark.module.min.js" },
  write: false,
});
const page = readFileSync("page.html", "utf8")
  .replace("/* style */", () => readFileSync("style.css", "utf8"))
  .replace("/* program */", () => result.outputFiles[0].text);
writeFileSync("../page.html", page);
