// Put the bundled program and the style into page.html: one file that needs nothing else.
// `node build.js [FILE]` writes ../page.html or FILE; the same sources always give the same bytes.
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const result = await build({
  entryPoints: ["main.js"],
  bundle: true,
  minify: true,
  format: "iife", // a module would wait for the whole page; the first image must not
  target: "es2022",
  legalComments: "eof",
  define: { "import.meta.url": '"about:blank"' },
  alias: { "@sparkjsdev/spark": "./node_modules/@sparkjsdev/spark/dist/spark.module.min.js" },
  write: false,
});
const page = readFileSync("page.html", "utf8")
  .replace("/* style */", () => readFileSync("style.css", "utf8"))
  .replace("/* program */", () => result.outputFiles[0].text);
writeFileSync(process.argv[2] ?? "../page.html", page);
