import { defineConfig } from "vite";

/**
 * The stand-ins for local networks: a site of their own, never part of the app. The wallet is one script, built by itself
 * (`--mode wallet`): its page names its canister in the query, which the gateway learns of scripts only that the page itself asks for.
 */
export default defineConfig(({ mode }) => ({
  root: "stand-in",
  resolve: { conditions: ["source", "module", "browser", "development|production"] },
  build: {
    target: "es2022",
    outDir: "../dist-stand-in",
    emptyOutDir: mode !== "wallet",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions:
      mode === "wallet"
        ? { input: ["stand-in/wallet.html"], output: { codeSplitting: false } }
        : { input: ["stand-in/index.html", "stand-in/identity.html"] },
  },
}));
