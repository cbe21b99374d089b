// Before the first paint, so that no page flashes in the other theme.
try {
  const theme = localStorage.getItem("ohms-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; then the system's theme it is.
}
