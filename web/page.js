// The page of the label server: the scans, what a model found in one, and both drawn by NiiVue.
import { MULTIPLANAR_TYPE, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";

const $ = (id) => document.getElementById(id);
const viewer = new Niivue({
    backColor: [0, 0, 0, 1],
    crosshairWidth: 0.5,
    isSliceMM: true, // world millimeters, or positions in oblique scans are off
    loadingText: "",
    meshThicknessOn2D: 10,
    multiplanarLayout: MULTIPLANAR_TYPE.GRID,
    multiplanarShowRender: SHOW_RENDER.ALWAYS,
});
let objects = {};
let shown = "";

// States of the page, for people and for tests: loading, ready, running, done, failed.
function say(state, text) {
    document.body.dataset.state = state;
    $("status").textContent = text;
    $("run").disabled = !shown || state === "running" || state === "loading";
}

function element(tag, text, parent) {
    const made = parent.appendChild(document.createElement(tag));
    made.textContent = text;
    return made;
}

async function get(url, options) {
    const response = await fetch(url, options);
    if (!response.ok) {
        const body = await response.json().catch(() => ({}));
        throw new Error(body.detail || `${response.status} ${response.statusText}`);
    }
    return response;
}

async function listScans() {
    objects = (await (await get("../datastore/?output=all")).json()).objects;
    $("scans").replaceChildren();
    for (const name of Object.keys(objects).sort()) {
        const button = element("button", name, $("scans"));
        button.onclick = () => attempt(() => show(name));
        button.dataset.scan = name;
        if (objects[name].labels.final) element("small", " labeled", button);
    }
}

async function show(name) {
    shown = "";
    say("loading", `loading ${name}`);
    $("vertebrae").replaceChildren();
    $("warnings").replaceChildren();
    viewer.meshes.slice().forEach((mesh) => viewer.removeMesh(mesh));
    const file = objects[name].image.info.name;
    const url = `../datastore/image?image=${encodeURIComponent(name)}`;
    await viewer.loadVolumes([{ url, name: file, cal_min: -250, cal_max: 900 }]);
    for (const button of $("scans").children) button.className = button.dataset.scan === name ? "chosen" : "";
    shown = name;
    say("ready", `${name}: not run yet`);
}

async function run() {
    const name = shown;
    say("running", `${name}: running, this can take a minute`);
    const url = `../infer/vertebrae?image=${encodeURIComponent(name)}&output=all`;
    const answer = await (await get(url, { method: "POST", body: new FormData() })).formData();
    const found = JSON.parse(await asText(answer.get("params")));
    await drawMask(answer.get("image"), found);
    drawPoints(found);
    list(found);
    say("done", `${name}: ${found.vertebrae.length} vertebrae in ${found.latencies.total} s`);
}

async function asText(value) {
    return typeof value === "string" ? value : value.text();
}

async function drawMask(file, found) {
    while (viewer.volumes.length > 1) viewer.removeVolumeByIndex(1);
    const mask = await NVImage.loadFromFile({ file: new File([file], "mask.nii.gz"), name: "mask.nii.gz", opacity: 0.55 });
    const names = Object.keys(found.label_names);
    const channel = (i) => [0, ...names.map((name) => found.label_colors[name][i])];
    mask.setColormapLabel({
        R: channel(0),
        G: channel(1),
        B: channel(2),
        A: [0, ...names.map(() => 255)],
        I: [0, ...Object.values(found.label_names)],
        labels: ["", ...names],
    });
    viewer.addVolume(mask);
}

function drawPoints(found) {
    viewer.meshes.slice().forEach((mesh) => viewer.removeMesh(mesh));
    if (!found.vertebrae.length) return;
    const nodes = found.vertebrae.map(({ name, position_mm: [x, y, z] }) => ({ name, x, y, z, colorValue: 1, sizeValue: 2 }));
    const look = { nodeColormap: "gray", nodeMinColor: 0, nodeMaxColor: 1, nodeScale: 1.5, legendLineThickness: 1 };
    viewer.loadConnectome({ name: "vertebrae", ...look, nodes, edges: [] });
    for (const { name, label } of viewer.meshes[0].nodes) {
        const color = [...found.label_colors[name].map((value) => value / 255), 1];
        Object.assign(label.style, { bulletColor: color, lineColor: color, textColor: [1, 1, 1, 1] });
    }
    const middle = nodes[Math.floor(nodes.length / 2)];
    goTo([middle.x, middle.y, middle.z]);
}

function goTo(position) {
    viewer.scene.crosshairPos = viewer.mm2frac(position);
    viewer.drawScene();
    viewer.createOnLocationChange();
}

function list(found) {
    $("vertebrae").replaceChildren();
    for (const vertebra of found.vertebrae) {
        const row = $("vertebrae").appendChild(document.createElement("tr"));
        const swatch = element("td", "", row);
        swatch.style.background = `rgb(${found.label_colors[vertebra.name].join()})`;
        element("td", vertebra.name, row);
        element("td", `${Math.round(100 * vertebra.probability)} %`, row);
        const other = vertebra.runner_up_probability >= 0.1;
        element("td", other ? `or ${vertebra.runner_up} ${Math.round(100 * vertebra.runner_up_probability)} %` : "", row);
        row.onclick = () => goTo(vertebra.position_mm);
    }
    $("warnings").replaceChildren();
    for (const warning of found.warnings) element("li", warning.message, $("warnings"));
}

async function attempt(action) {
    try {
        await action();
    } catch (error) {
        say("failed", error.message);
    }
}

async function start() {
    await viewer.attachToCanvas($("canvas"));
    viewer.setSliceType(SLICE_TYPE.MULTIPLANAR);
    viewer.onLocationChange = ({ mm, values, string }) => {
        const place = [...mm].slice(0, 3).map(Math.round).join(", ");
        const [, name = ""] = string.split("=")[1].trim().split(/\s+/); // NiiVue: position = value label
        $("place").textContent = `${place} mm (RAS): ${Math.round(values[0].value)} HU ${name}`;
    };
    $("run").onclick = () => attempt(run);
    await listScans();
    say("ready", "choose a scan");
    const wanted = new URLSearchParams(location.search);
    if (wanted.has("scan")) await show(wanted.get("scan"));
    if (wanted.has("run")) await run();
}

attempt(start);
