// In gr.HTML: `element`, `props` and `watch` are given. props.layers holds the pictures of one frame as data URLs,
// props.value the mask, the targets and the target in focus.
const MAX_SCALE = 64; // screen pixels per image pixel
const STEP = 1.4;
const MARGIN_PX = 5; // on screen, between a target's box and the mark around it
const MAX_LABELS = 100;
const find = (selector) => element.querySelector(selector);
const port = find(".port"), img = find("img"), marks = find(".marks");
const view = { layer: "image", scale: 1, x: 0, y: 0, fitted: true };

const captions = {
  image: () => "",
  probability: () => "probability: 0 dark, 1 bright",
  uncertainty: (layers) => `standard deviation over the ensemble: 0 dark, ${layers.uncertainty_max.toFixed(3)} bright`,
  mask: () => "probability above the threshold",
};

function address(layer) {
  return layer === "mask" ? props.value?.mask : props.layers?.[layer];
}

function fitScale() {
  return Math.min(port.clientWidth / props.layers.width, port.clientHeight / props.layers.height);
}

function fit() {
  const { width, height } = props.layers;
  view.scale = fitScale();
  view.x = (port.clientWidth - width * view.scale) / 2;
  view.y = (port.clientHeight - height * view.scale) / 2;
  view.fitted = true;
}

function zoom(factor, x, y) {
  const scale = Math.min(MAX_SCALE, Math.max(Math.min(1, fitScale()), view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  view.fitted = false;
  place();
}

function focus(target) {
  view.scale = Math.max(view.scale, Math.min(8, MAX_SCALE));
  view.x = port.clientWidth / 2 - (target.x + 0.5) * view.scale;
  view.y = port.clientHeight / 2 - (target.y + 0.5) * view.scale;
  view.fitted = false;
}

function draw() {
  const shown = props.layers !== null && props.layers !== undefined;
  find(".empty").hidden = shown;
  img.hidden = !shown;
  for (const button of element.querySelectorAll("button[data-layer]")) {
    button.disabled = !address(button.dataset.layer);
  }
  if (!address(view.layer)) view.layer = "image";
  for (const button of element.querySelectorAll("button[data-layer]")) {
    button.setAttribute("aria-checked", String(button.dataset.layer === view.layer));
  }
  for (const button of element.querySelectorAll("button[data-zoom]")) button.disabled = !shown;
  find(".caption").textContent = shown ? captions[view.layer](props.layers) : "";
  marks.replaceChildren();
  port.dataset.name = shown ? props.layers.name : "";
  img.dataset.palette = view.layer === "image" ? find(".palette select").value : "";
  if (!shown) return;
  if (img.src !== address(view.layer)) img.src = address(view.layer);
  const targets = [...(props.value?.targets ?? [])].sort((a, b) => b.confidence - a.confidence);
  for (const target of props.layers.planted) {
    const circle = document.createElement("i");
    circle.target = target;
    marks.append(circle);
  }
  targets.forEach((target, rank) => {
    const mark = document.createElement("div");
    mark.className = "mark";
    mark.target = target;
    if (rank < MAX_LABELS) {
      const label = document.createElement("span");
      label.textContent = `${target.number}: ${target.confidence.toFixed(2)}`;
      mark.append(label);
    }
    marks.append(mark);
  });
  place();
}

function place() {
  if (!props.layers) return;
  if (view.fitted) fit();
  const { width, height } = props.layers;
  img.style.width = `${width}px`;
  img.style.height = `${height}px`;
  img.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  find(".scale").textContent = `${view.scale.toFixed(view.scale < 1 ? 2 : 1)}×`;
  marks.style.display = find(".overlay input").checked ? "" : "none";
  for (const circle of marks.querySelectorAll("i")) {
    circle.style.left = `${view.x + (circle.target.x + 0.5) * view.scale}px`;
    circle.style.top = `${view.y + (circle.target.y + 0.5) * view.scale}px`;
  }
  for (const mark of marks.querySelectorAll(".mark")) {
    const { left, top, number } = mark.target;
    mark.style.left = `${view.x + left * view.scale - MARGIN_PX}px`;
    mark.style.top = `${view.y + top * view.scale - MARGIN_PX}px`;
    mark.style.width = `${mark.target.width * view.scale + 2 * MARGIN_PX}px`;
    mark.style.height = `${mark.target.height * view.scale + 2 * MARGIN_PX}px`;
    mark.classList.toggle("focus", number === props.value.focus);
    mark.classList.toggle("low", view.y + top * view.scale < 24);
  }
}

function pixel(event) {
  const box = port.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const middle = [port.clientWidth / 2, port.clientHeight / 2];
  if (button.dataset.layer) {
    view.layer = button.dataset.layer;
    draw();
  } else if (button.dataset.zoom === "fit") {
    fit();
    place();
  } else if (button.dataset.zoom === "full") {
    port.requestFullscreen();
  } else {
    zoom(button.dataset.zoom === "in" ? STEP : 1 / STEP, ...middle);
  }
});
find(".overlay input").addEventListener("change", place);
find(".palette select").addEventListener("change", draw);
port.addEventListener("wheel", (event) => {
  if (!props.layers) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 300), ...pixel(event));
}, { passive: false });
port.addEventListener("pointerdown", (event) => {
  if (!props.layers) return;
  port.setPointerCapture(event.pointerId);
  port.classList.add("dragging");
});
port.addEventListener("pointerup", () => port.classList.remove("dragging"));
port.addEventListener("pointermove", (event) => {
  if (!props.layers) return;
  if (port.classList.contains("dragging")) {
    view.x += event.movementX;
    view.y += event.movementY;
    view.fitted = false;
    place();
  }
  const [x, y] = pixel(event);
  const column = Math.floor((x - view.x) / view.scale), row = Math.floor((y - view.y) / view.scale);
  const inside = column >= 0 && row >= 0 && column < props.layers.width && row < props.layers.height;
  find(".pointer").textContent = inside ? `x ${column}, y ${row}` : "";
});
port.addEventListener("pointerleave", () => (find(".pointer").textContent = ""));
port.addEventListener("dblclick", (event) => props.layers && zoom(STEP * STEP, ...pixel(event)));
new ResizeObserver(place).observe(port);

let size = "";
watch("layers", () => {
  const now = props.layers ? `${props.layers.name} ${props.layers.width} ${props.layers.height}` : "";
  if (now !== size) view.fitted = true; // another input; the frames of one keep the view
  size = now;
  draw();
});
watch("value", () => {
  draw();
  const target = props.value?.targets.find((one) => one.number === props.value.focus);
  if (target) {
    focus(target);
    place();
  }
});
draw();
