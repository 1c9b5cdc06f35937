// The widget of Preview 4D: the viewer page in a frame, with where one looks from kept in the
// node's properties. It shows the files that the node wrote, again after a reload.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const STATE = "Viewer state"; // { time, view, camera }, as the page reports it
const SCENE = "Viewer scene"; // { subfolder, type } of the files
const SETTLED = 500; // milliseconds without a change until the workflow counts as changed

function createWidget(node, name) {
  const element = document.createElement("div");
  const note = document.createElement("div");
  const frame = document.createElement("iframe");
  Object.assign(element.style, { width: "100%", height: "100%", background: "#000", color: "#999", position: "relative" });
  Object.assign(note.style, { position: "absolute", inset: "0", display: "grid", placeItems: "center" });
  Object.assign(frame.style, { position: "absolute", width: "100%", height: "100%", border: "0" });
  frame.allow = "fullscreen";
  frame.title = "4D viewer";
  note.textContent = "Run the workflow to see the scene.";
  element.append(note);

  const widget = node.addDOMWidget(name, "FOURREAL_VIEW", element, {
    hideOnZoom: false,
    getMinHeight: () => 320,
    getValue: () => node.properties[STATE]?.camera,
  });
  widget.serialize = false; // in the properties, not among the widgets' values
  widget.serializeValue = () => node.properties[STATE]?.camera;

  let settling;
  function hear({ source, data }) {
    if (source !== frame.contentWindow || !source) return;
    const { type, ...state } = data ?? {};
    if (type === "fourreal:ready" && node.properties[STATE]) {
      const { time, view, camera } = node.properties[STATE];
      const place = view >= 0 ? { view } : { camera };
      source.postMessage({ type: "fourreal:set", time, ...place }, location.origin);
    } else if (type === "fourreal:state") {
      if (JSON.stringify(node.properties[STATE]) === JSON.stringify(state)) return;
      node.properties[STATE] = state;
      clearTimeout(settling);
      settling = setTimeout(
        () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(),
        SETTLED,
      );
    }
  }

  async function show({ subfolder, type }) {
    const files = `/view?${new URLSearchParams({ type, subfolder, filename: "" })}`;
    const page = api.apiURL(`/fourreal/viewer?${new URLSearchParams({ scene: api.apiURL(files) })}`);
    if (frame.getAttribute("src") === page) return;
    if (!(await api.fetchApi(`${files}scene.json`)).ok) return; // temporary files do not last
    frame.src = page;
    element.append(frame);
  }

  window.addEventListener("message", hear);
  const { onExecuted, onConfigure, onRemoved } = node;
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments);
    const [scene] = output?.fourreal_scene ?? [];
    if (!scene) return;
    node.properties[SCENE] = { subfolder: scene.subfolder, type: scene.type };
    show(node.properties[SCENE]);
  };
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    if (node.properties[SCENE]) show(node.properties[SCENE]);
  };
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments);
    clearTimeout(settling);
    window.removeEventListener("message", hear);
  };
  node.setSize([Math.max(node.size[0], 420), Math.max(node.size[1], 480)]);
  return { widget };
}

app.registerExtension({
  name: "fourreal.preview4d",
  getCustomWidgets: () => ({ FOURREAL_VIEW: createWidget }),
});
