"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const {width, height, supports, detracts} = data;
  const ZOOM = 2; // canvas pixels to a pixel of the picture: borders are finer than pixels
  const slider = document.getElementById("shown");
  const count = Number(slider.max);

  const segmentOf = new Int32Array(width * height);
  for (let i = 0, at = 0; i < data.runs.length; i += 2) {
    segmentOf.fill(data.runs[i], at, at += data.runs[i + 1]);
  }
  const areas = new Int32Array(count);
  for (const segment of segmentOf) areas[segment] += 1;

  const picture = document.getElementById("picture");
  await picture.decode();
  const pixels = context(width, height);
  pixels.drawImage(picture, 0, 0);
  const source = pixels.getImageData(0, 0, width, height).data;

  const borders = edges((a, b) => a !== b && 16 * count < segmentOf.length); // none around single pixels
  const outlines = new Map();
  const views = [...document.querySelectorAll("[data-view]")].map(view);

  function context(wide, tall) {
    const canvas = document.createElement("canvas");
    canvas.width = wide;
    canvas.height = tall;
    return canvas.getContext("2d", {willReadFrequently: true});
  }

  /* The lines between neighbouring pixels of which `differ` says so, in canvas pixels. */
  function edges(differ) {
    const path = new Path2D();
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const here = segmentOf[y * width + x];
        if (x && differ(here, segmentOf[y * width + x - 1])) {
          path.moveTo(x * ZOOM, y * ZOOM);
          path.lineTo(x * ZOOM, (y + 1) * ZOOM);
        }
        if (y && differ(here, segmentOf[(y - 1) * width + x])) {
          path.moveTo(x * ZOOM, y * ZOOM);
          path.lineTo((x + 1) * ZOOM, y * ZOOM);
        }
      }
    }
    return path;
  }

  function outline(segment) {
    if (!outlines.has(segment)) {
      outlines.set(segment, edges((a, b) => (a === segment) !== (b === segment)));
    }
    return outlines.get(segment);
  }

  /* Paint every pixel by colour(pixel, segment, red-green-blue out), enlarged. */
  function painted(colour) {
    const small = context(width, height);
    const image = small.createImageData(width, height);
    const rgb = [0, 0, 0];
    for (let pixel = 0; pixel < segmentOf.length; pixel++) {
      colour(pixel, segmentOf[pixel], rgb);
      for (let channel = 0; channel < 3; channel++) {
        image.data[4 * pixel + channel] = Math.round(rgb[channel]);
      }
      image.data[4 * pixel + 3] = 255;
    }
    small.putImageData(image, 0, 0);
    const large = context(width * ZOOM, height * ZOOM);
    large.imageSmoothingEnabled = false;
    large.drawImage(small.canvas, 0, 0, width * ZOOM, height * ZOOM);
    return large.canvas;
  }

  /* The picture in grey, lightened, tinted by the scores: full tint at the limit. */
  function overlay(scores, limit) {
    return painted((pixel, segment, rgb) => {
      const at = 4 * pixel;
      const grey = (0.299 * source[at] + 0.587 * source[at + 1] + 0.114 * source[at + 2]) * 0.75 + 64;
      const strength = Math.max(-1, Math.min(1, (scores[segment] ?? 0) / (limit || 1)));
      const tint = strength > 0 ? supports : detracts;
      const alpha = 0.8 * Math.abs(strength);
      for (let channel = 0; channel < 3; channel++) {
        rgb[channel] = grey * (1 - alpha) + tint[channel] * alpha;
      }
    });
  }

  function revealed(order, shown) {
    const visible = new Uint8Array(count);
    for (const segment of order.slice(0, shown)) visible[segment] = 1;
    return painted((pixel, segment, rgb) => {
      const x = pixel % width, y = (pixel - x) / width;
      const board = 215 + 30 * (((x >> 3) + (y >> 3)) % 2);
      for (let channel = 0; channel < 3; channel++) {
        rgb[channel] = visible[segment] ? source[4 * pixel + channel] : board;
      }
    });
  }

  function view(element) {
    const [row, column] = element.dataset.view.split(",").map(Number);
    const found = data.removals[column];
    const each = {
      element, scores: found.scores[row], order: found.order[row], stderr: found.stderr?.[row],
      tinted: overlay((found.shades ?? found.scores)[row], data.limits[row]), shown: null, segment: null,
      canvases: element.querySelectorAll("canvas"),
      readout: element.querySelector(".readout"), share: element.querySelector(".share"),
    };
    for (const canvas of each.canvases) {
      canvas.addEventListener("pointermove", event => point(segmentAt(canvas, event)));
      canvas.addEventListener("pointerdown", event => point(segmentAt(canvas, event)));
      canvas.addEventListener("pointerleave", () => point(null));
      canvas.addEventListener("blur", () => point(null));
      canvas.addEventListener("keydown", event => step(each, event));
    }
    return each;
  }

  function segmentAt(canvas, event) {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * width);
    const y = Math.floor((event.clientY - box.top) / box.height * height);
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    return inside ? segmentOf[y * width + x] : null;
  }

  /* Arrow keys go through a view's segments by score; Home, End, Escape do what they say. */
  function step(each, event) {
    const {order} = each;
    const at = each.segment === null ? -1 : order.indexOf(each.segment);
    const goal = {
      ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: count - 1,
    }[event.key];
    if (event.key !== "Escape" && goal === undefined) return;
    event.preventDefault();
    point(goal === undefined ? null : order[Math.max(0, Math.min(count - 1, goal))]);
  }

  let pointed = null;
  function point(segment) {
    if (segment === pointed) return;
    pointed = segment;
    for (const each of views) {
      each.segment = segment;
      draw(each);
      say(each);
    }
  }

  /* Two lines: the score, and whose it is; without a segment pointed at, those of the best. */
  function say(each) {
    const segment = each.segment ?? each.order[0];
    const rank = each.order.indexOf(segment) + 1;
    each.readout.textContent = `${reading(each, segment)}\nsegment ${segment}, rank ${rank} of ${count}`;
  }

  function reading(each, segment) {
    const score = each.scores[segment];
    if (score === null) return "no score";
    const error = each.stderr?.[segment];
    const spread = error == null ? "" : ` ± ${error.toPrecision(2)}`;
    return `${score > 0 ? "+" : ""}${short(score)}${spread}`;
  }

  function short(number) {
    return String(Number(number.toPrecision(3))).replace("-", "−");
  }

  function draw(each) {
    each.canvases.forEach((canvas, index) => {
      const drawing = canvas.getContext("2d");
      drawing.drawImage(index ? each.shown : each.tinted, 0, 0);
      if (!index) stroke(drawing, borders, "rgb(255 255 255 / 45%)", 1);
      if (each.segment !== null) {
        stroke(drawing, outline(each.segment), "#fff", 5);
        stroke(drawing, outline(each.segment), "#000", 2);
      }
    });
  }

  function stroke(drawing, path, style, wide) {
    drawing.strokeStyle = style;
    drawing.lineWidth = wide;
    drawing.stroke(path);
  }

  function reveal() {
    const shown = Number(slider.value);
    document.getElementById("count").textContent = `${shown} of ${count}`;
    for (const each of views) {
      each.shown = revealed(each.order, shown);
      let area = 0;
      for (const segment of each.order.slice(0, shown)) area += areas[segment];
      const share = (100 * area / segmentOf.length).toFixed(1);
      each.share.textContent = `${shown} segments, ${share} % of the pixels`;
      draw(each);
    }
  }

  /* #shown=10 sets the slider, and the slider sets that: a link keeps what is seen. */
  function follow() {
    const wanted = new URLSearchParams(location.hash.slice(1)).get("shown");
    if (wanted !== null && /^\d+$/.test(wanted)) slider.value = wanted;
    reveal();
  }

  slider.addEventListener("input", reveal);
  slider.addEventListener("change", () => {
    try {
      history.replaceState(null, "", `#shown=${slider.value}`);
    } catch {
      // a page inside another, as in a notebook, has no address of its own
    }
  });
  slider.form.addEventListener("submit", event => event.preventDefault());
  addEventListener("hashchange", follow);
  views.forEach(say);
  follow();
  document.documentElement.dataset.painted = "yes";
})();
