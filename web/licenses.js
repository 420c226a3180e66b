// Collects the licenses of what page.js holds into one file beside it.
import { existsSync, readFileSync, writeFileSync } from "node:fs";

const bundled = ["@niivue/niivue", "@lukeed/uuid", "@ungap/structured-clone", "array-equal", "fflate", "gl-matrix", "nifti-reader-js"];
const parts = bundled.map((name) => {
    const folder = `node_modules/${name}`;
    const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`));
    const own = name === "@niivue/niivue" ? "niivue_license.txt" : ["LICENSE", "license", "LICENSE.md", "license.md"].map((file) => `${folder}/${file}`).find(existsSync);
    if (!own) throw new Error(`${name} has no license file`);
    return `${name} ${version} (${license})\n\n${readFileSync(own, "utf8").trim()}\n`;
});
writeFileSync("../pipeline/label/page/LICENSES.txt", parts.join(`\n${"-".repeat(80)}\n\n`));
