import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";

import { type Plugin, defineConfig } from "vite";

/** Writes what the page was built from, so that a test can tell a build that is older than its source. */
const builtFrom: Plugin = {
  name: "built-from",
  generateBundle() {
    const sources = readdirSync("src", { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => `${entry.parentPath}/${entry.name}`);
    const files = [...sources, "index.html", "package-lock.json", "tsconfig.json", "vite.config.ts"].sort();
    const digests = files.map((file) => [file, createHash("sha256").update(readFileSync(file)).digest("hex")]);
    this.emitFile({
      type: "asset",
      fileName: "built-from.json",
      source: JSON.stringify(Object.fromEntries(digests), null, 1) + "\n",
    });
  },
};

// `npm run dev` shows the page against a server started by `resight serve COLLECTION`.
export default defineConfig({
  base: "/static/",
  plugins: [builtFrom],
  build: {
    outDir: "../src/resight/server/static",
    emptyOutDir: true,
    target: "es2022",
    // The policy of the server allows no inline script, style or picture.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" }, // of the libraries in it, which their licences ask for
  },
  // The service compares Origin with Host, so Host must stay the browser's.
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8765", changeOrigin: false } } },
});
