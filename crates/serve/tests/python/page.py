"""The chat page in headless Chromium: python page.py URL KEY [SCREENSHOT]

Says `NOT RUN: why` where Playwright or Chromium is missing."""
import shutil
import sys
import tempfile
import time

url, key = sys.argv[1:3]
chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sys.exit(print("NOT RUN: the Python package playwright is missing"))
if not chromium:
    sys.exit(print("NOT RUN: no Chromium"))
flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
with sync_playwright() as tools, tempfile.TemporaryDirectory() as profile:
    browser = tools.chromium.launch_persistent_context(profile, executable_path=chromium, headless=True, args=flags,
                                                       viewport={"width": 900, "height": 640})
    page = browser.new_page()

    def until(condition):
        """Polls from outside: the page's policy forbids to evaluate a text inside."""
        end = time.monotonic() + 30
        while not page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.01)

    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    # A key is asked for, and then the model's name is there.
    page.wait_for_selector("#key-label:not([hidden])")
    page.fill("#key", key)
    page.dispatch_event("#key", "change")
    until("document.getElementById('model').textContent === 'tiny'")
    # What is said is text, never markup.
    page.fill("#prompt", "the <b>quick</b> <img src=x onerror='document.title=1'>")
    # The answer's lengths as it grows.
    page.evaluate("""() => { window.lengths = []; new MutationObserver(() => {
        const box = [...document.querySelectorAll('.assistant')].pop();
        if (box) window.lengths.push(box.textContent.length);
    }).observe(document.getElementById('turns'), { subtree: true, childList: true, characterData: true }); }""")
    page.press("#prompt", "Enter")
    until("new Set(window.lengths).size > 3")
    page.wait_for_selector("#stop:disabled", timeout=60000)
    assert page.locator(".user b, .assistant b, main img").count() == 0, "markup came through"
    assert page.title() == "Caravan"
    # The second turn is stopped.
    page.fill("#prompt", "lazy dog")
    page.click("#send")
    until("document.querySelectorAll('.assistant').length === 2")
    until("[...document.querySelectorAll('.assistant')].pop().textContent.length > 0")
    # A tiny model may be done before.
    page.evaluate("document.getElementById('stop').click()")
    page.wait_for_selector("#stop:disabled", state="attached")
    if len(sys.argv) > 3:
        page.screenshot(path=sys.argv[3])
    page.click("#new")
    assert page.locator("main > div").count() == 0
    elsewhere = [address for address in asked if not address.startswith(url) and not address.startswith("data:")]
    assert not elsewhere and not problems, (elsewhere, problems)
    browser.close()
print("all good")
