// The window of the wallet.

/** Presses the buttons of the wallet's window one after the other, and waits until it has closed. */
export async function inWallet(page, press, buttons, look = async () => undefined) {
  const opened = page.waitForEvent("popup");
  await press();
  const window = await opened;
  for (const name of buttons) {
    const button = window.getByRole("button", { name, exact: true });
    await button.waitFor();
    await look(window, name);
    const closed = window.waitForEvent("close", { timeout: 180_000 });
    await button.click();
    if (name === buttons.at(-1)) await closed;
    else closed.catch(() => undefined);
  }
}
