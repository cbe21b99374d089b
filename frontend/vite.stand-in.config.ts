import { defineConfig } from "vite";

/** The stand-ins for local networks: a site of their own, never part of the app. */
export default defineConfig({
  root: "stand-in",
  resolve: { conditions: ["source", "module", "browser", "development|production"] },
  build: {
    target: "es2022",
    outDir: "../dist-stand-in",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { input: ["stand-in/index.html", "stand-in/identity.html", "stand-in/wallet.html"] },
  },
});
