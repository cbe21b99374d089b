export function canisters(): string[];
export function writeBindings(outDir: string): Promise<void>;
