import Panzoom, { type PanzoomObject } from "@panzoom/panzoom";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

/** Zoom and pan of the scene by wheel, pinch and drag, and whether it was zoomed into; back to all of it when `of` changes. */
export function useZoom(stage: { current: HTMLDivElement | null }, of: string) {
  const scene = useRef<HTMLDivElement>(null);
  const zoomer = useRef<PanzoomObject | null>(null);
  const [zoomed, setZoomed] = useState(false);
  useLayoutEffect(() => {
    const [element, outside] = [scene.current, stage.current];
    if (!element || !outside) return undefined;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const made = Panzoom(element, {
      minScale: 1,
      maxScale: 16,
      step: 0.4,
      canvas: true,
      panOnlyWhenZoomed: true,
      animate: !calm,
      cursor: "default",
      touchAction: "none",
    });
    const wheel = (event: WheelEvent) => made.zoomWithWheel(event);
    const changed = (event: Event) => {
      const { scale } = (event as CustomEvent<{ scale: number }>).detail;
      element.style.setProperty("--zoom", String(scale));
      if (scale > 1.5) setZoomed(true);
      if (scale === 1 && (made.getPan().x || made.getPan().y)) made.pan(0, 0, { force: true, animate: false });
    };
    outside.addEventListener("wheel", wheel, { passive: false });
    element.addEventListener("panzoomchange", changed);
    zoomer.current = made;
    return () => {
      outside.removeEventListener("wheel", wheel);
      element.removeEventListener("panzoomchange", changed);
      made.destroy();
      made.resetStyle();
      element.style.removeProperty("--zoom");
      element.style.transform = "";
    };
  }, [of]);
  return [zoomer, scene, zoomed] as const;
}
