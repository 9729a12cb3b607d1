// Runs once in each part of the page that is pressed or drawn on. What is inside comes and goes
// with every answer of the server, so the listeners are on the part itself.
const say = (kind, data) => trigger("select", { kind, ...data });

element.addEventListener("click", (event) => {
  const sample = event.target.closest("[data-sample]");
  if (sample) return say("sample", { sample: Number(sample.dataset.sample) });
  const layer = event.target.closest("[data-layer]");
  if (layer) return say("layer", { layer: Number(layer.dataset.layer) });
  const tool = event.target.closest("[data-tool]");
  if (tool) return choose(tool);
  const patches = event.target.closest("[data-frame]");
  if (!patches) return;
  const box = patches.getBoundingClientRect();
  const cell = (at, from, length, cells) =>
    Math.min(cells - 1, Math.max(0, Math.floor(((at - from) / length) * cells)));
  say("patch", {
    frame: Number(patches.dataset.frame),
    row: cell(event.clientY, box.top, box.height, Number(patches.dataset.rows)),
    column: cell(event.clientX, box.left, box.width, Number(patches.dataset.columns)),
  });
});

const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
element.addEventListener("keydown", (event) => {
  const frames = event.target.closest("[data-place]");
  if (!frames || !steps[event.key]) return;
  event.preventDefault();
  const [frame, row, column] = frames.dataset.place.split(",").map(Number);
  const { rows, columns } = frames.querySelector("[data-frame]").dataset;
  const [down, right] = steps[event.key];
  say("patch", {
    frame,
    row: Math.min(Number(rows) - 1, Math.max(0, row + down)),
    column: Math.min(Number(columns) - 1, Math.max(0, column + right)),
  });
});

// The mask: squares of a small canvas over the frame, sent as one character a square.
const INK = "#e69f00";
let pen = "draw";
let last = null;
const board = () => element.querySelector(".board");
const inks = () => board().getContext("2d", { willReadFrequently: true });

const choose = (tool) => {
  if (tool.dataset.tool === "clear") {
    inks().clearRect(0, 0, board().width, board().height);
    return;
  }
  pen = tool.dataset.tool;
  for (const other of element.querySelectorAll("[data-tool]"))
    other.setAttribute("aria-pressed", String(other.dataset.tool === pen));
};

const place = (event) => {
  const box = board().getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * board().width,
    ((event.clientY - box.top) / box.height) * board().height,
  ];
};

const dab = (to) => {
  const ink = inks();
  const radius = board().width / 20;
  const [x, y] = last ?? to;
  const dabs = Math.max(1, Math.ceil(Math.hypot(to[0] - x, to[1] - y)));
  ink.globalCompositeOperation = pen === "draw" ? "source-over" : "destination-out";
  ink.fillStyle = INK;
  for (let n = 0; n <= dabs; n++) {
    const share = n / dabs;
    ink.beginPath();
    ink.arc(x + share * (to[0] - x), y + share * (to[1] - y), radius, 0, 2 * Math.PI);
    ink.fill();
  }
  last = to;
};

element.addEventListener("pointerdown", (event) => {
  if (event.target !== board() || event.target === null) return;
  event.preventDefault();
  board().setPointerCapture(event.pointerId);
  last = null;
  dab(place(event));
});
element.addEventListener("pointermove", (event) => {
  if (last && event.target === board()) dab(place(event));
});
const lift = () => {
  if (!last) return;
  last = null;
  const { width, height } = board();
  const inked = inks().getImageData(0, 0, width, height).data;
  let mask = "";
  for (let n = 3; n < inked.length; n += 4) mask += inked[n] > 127 ? "1" : "0";
  say("mask", { mask });
};
element.addEventListener("pointerup", lift);
element.addEventListener("pointercancel", lift);

// A new clip comes with clean paper.
watch("value", () => {
  if (board()) choose({ dataset: { tool: "clear" } });
});
