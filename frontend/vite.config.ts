import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [react(), tailwindcss()],
  resolve: { conditions: ["source", "module", "browser", "development|production"] },
  build: {
    target: "es2022",
    // The policy of the pages allows no scripts and styles but files.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { input: { index: "index.html" } },
  },
  ssr: { resolve: { conditions: ["source", "module", "node", "development|production"] } },
  // Patience for a machine that compiles something else meanwhile.
  test: { environment: "node", include: ["{src,client,stand-in}/**/*.test.ts"], testTimeout: 60_000 },
});
