import { useState } from "preact/hooks";

import { Moon, Sun } from "./parts/icons";

const THEME = "resight-theme";

/** The switch between light and dark colours. */
export function Theme() {
  const [dark, setDark] = useState(() => document.documentElement.dataset["theme"] === "dark");
  const turn = () => {
    const theme = dark ? "light" : "dark";
    document.documentElement.dataset["theme"] = theme;
    localStorage.setItem(THEME, theme);
    setDark(!dark);
  };
  return (
    <button type="button" class="bare" aria-label={dark ? "Light colours" : "Dark colours"} onClick={turn}>
      {dark ? <Sun /> : <Moon />}
    </button>
  );
}

/** Light or dark as chosen before, else as the system has it. */
export function setTheme(): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    document.documentElement.dataset["theme"] = localStorage.getItem(THEME) ?? (system.matches ? "dark" : "light");
  };
  system.addEventListener("change", follow);
  follow();
}
