// Small line drawings, each beside or instead of a label.

import type { ComponentChildren } from "preact";

const Icon = ({ children }: { children: ComponentChildren }) => (
  <svg
    class="icon"
    viewBox="0 0 20 20"
    aria-hidden="true"
    fill="none"
    stroke="currentColor"
    stroke-width="1.7"
    stroke-linecap="round"
    stroke-linejoin="round"
  >
    {children}
  </svg>
);

export const Close = () => (
  <Icon>
    <path d="m5 5 10 10M15 5 5 15" />
  </Icon>
);
export const Plus = () => (
  <Icon>
    <path d="M10 4v12M4 10h12" />
  </Icon>
);
export const Minus = () => (
  <Icon>
    <path d="M4 10h12" />
  </Icon>
);
export const Left = () => (
  <Icon>
    <path d="m12.5 4-6 6 6 6" />
  </Icon>
);
export const Right = () => (
  <Icon>
    <path d="m7.5 4 6 6-6 6" />
  </Icon>
);
export const Find = () => (
  <Icon>
    <circle cx="9" cy="9" r="5.2" />
    <path d="m13 13 4 4" />
  </Icon>
);
export const Drop = () => (
  <Icon>
    <path d="M10 12.5V3.5M6.5 6.8 10 3.3l3.5 3.5M3.5 12v3.5a1 1 0 0 0 1 1h11a1 1 0 0 0 1-1V12" />
  </Icon>
);
export const Sun = () => (
  <Icon>
    <circle cx="10" cy="10" r="3.4" />
    <path d="M10 2.2v2M10 15.8v2M2.2 10h2M15.8 10h2M4.5 4.5l1.4 1.4M14.1 14.1l1.4 1.4M15.5 4.5l-1.4 1.4M5.9 14.1l-1.4 1.4" />
  </Icon>
);
export const Moon = () => (
  <Icon>
    <path d="M16.5 11.8A7 7 0 0 1 8.2 3.5a7 7 0 1 0 8.3 8.3Z" />
  </Icon>
);
export const Link = () => (
  <Icon>
    <path d="M8.5 11.5a3 3 0 0 0 4.3 0l2.7-2.7a3 3 0 0 0-4.3-4.3l-1 1M11.5 8.5a3 3 0 0 0-4.3 0l-2.7 2.7a3 3 0 0 0 4.3 4.3l1-1" />
  </Icon>
);
export const Save = () => (
  <Icon>
    <path d="M10 3.5v9M6.5 9.2l3.5 3.5 3.5-3.5M3.5 13v2.5a1 1 0 0 0 1 1h11a1 1 0 0 0 1-1V13" />
  </Icon>
);
