"""What the page promises, tried in Chromium: `cargo xtask clients page` runs this against the server. By hand:

    pip install playwright          and a Chromium: `apt-get install chromium`, or `playwright install chromium`
    python3 page_test.py            against mock.py, which answers what each test tells it to
    python3 page_test.py --url URL --key KEY    against a server that asks for this key and has a model of DeepSeek V4's format: its
                                    page and its policy, still with mock.py behind the page where a test has to say when and how an
                                    answer comes, and all of the server in `TestServer`, which is skipped without
    python3 page_test.py --shots DIR TestLooks    pictures to look at

Chromium is the one in $CHROMIUM, or on the path, or playwright's own. Arguments of unittest follow: names of tests, `-v`, `-k`.
No test waits for a time to pass: each waits for what it wants to see, `WAIT_MS` at most.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import sys
import threading
import unittest
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

import mock
from mock import Mock, say, usage

WAIT_MS = 10_000
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}

options = argparse.Namespace(url=os.environ.get("SERVER"), key=os.environ.get("KEY"), shots=None, slow=1)


def setUpModule():
    """A browser and a mock for all tests."""
    playwright = unittest.enterModuleContext(sync_playwright())
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    PageTest.browser = playwright.chromium.launch(executable_path=path, args=sandbox)
    unittest.addModuleCleanup(PageTest.browser.close)
    PageTest.server = Mock()
    unittest.addModuleCleanup(PageTest.server.shutdown)
    expect.set_options(timeout=WAIT_MS * options.slow)


class PageTest(unittest.TestCase):
    """A fresh profile for each test; and at its end: no errors, nobody else was asked."""

    is_scripted = True

    def setUp(self):
        self.server.reset()
        self.url = options.url or self.server.url
        self.errors = []
        self.foreign = []
        self.expected = []
        self.context = None
        self.open()

    def tearDown(self):
        self.context.close()
        unexpected = [text for text in self.errors if not any(re.search(ok, text) for ok in self.expected)]
        self.assertEqual(unexpected, [], "the console says")
        self.assertEqual(self.foreign, [], "another origin was asked")

    def open(self, **settings):
        """A fresh profile, and the page in it."""
        if self.context:
            self.context.close()
        self.context = self.browser.new_context(**{**DESKTOP, **settings})
        self.context.set_default_timeout(WAIT_MS * options.slow)
        self.page = self.tab()

    def tab(self, fragment=""):
        page = self.context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self.note)
        if options.url and self.is_scripted:
            page.route("**/v1/**", lambda route: route.continue_(url=self.server.url + urlsplit(route.request.url).path))
        page.goto(self.url + fragment)
        expect(page.locator("#model")).not_to_be_empty()
        return page

    def note(self, request):
        ours = urlsplit(self.url).netloc
        if not request.url.startswith(("blob:", "data:")) and urlsplit(request.url).netloc != ours:
            self.foreign.append(request.url)

    # What a user does.

    def say(self, text, page=None):
        page = page or self.page
        page.get_by_label("Message", exact=True).fill(text)
        page.get_by_role("button", name="Send").click()

    def ask(self, text, *answers, page=None, **numbers):
        """Says something, and waits for the end of the answer: the pieces `answers`, if there are any."""
        if answers:
            self.server.answer = lambda body: say(*answers, **numbers)
        self.say(text, page)
        self.wait(page)

    def wait(self, page=None):
        expect((page or self.page).get_by_role("button", name="Send")).to_be_visible()

    def gate(self):
        """An event that holds an answer until the test sets it; it is set in the end in any case."""
        event = threading.Event()
        self.addCleanup(event.set)
        return event

    def refuse(self, status, message, code=None, **headers):
        self.expected.append(f"status of {status}")
        return [{"refuse": (status, {k.replace("_", "-"): v for k, v in headers.items()}, {"message": message, "code": code})}]

    # What a user sees.

    @property
    def answers(self):
        return self.page.locator(".turn.model > .md")

    @property
    def answer(self):
        return self.answers.last

    @property
    def failure(self):
        return self.page.locator(".failure:visible")

    def hover_last(self, name):
        """The button called `name` of the last message that has one."""
        button = self.page.get_by_role("button", name=name, exact=True).last
        button.hover()
        return button

    def asked(self, at=-1):
        """The messages of a request, without the system prompt."""
        return [(m["role"], m["content"]) for m in self.server.requests[at]["messages"] if m["role"] != "system"]


class TestAnswer(PageTest):
    def test_an_answer_appears_piece_by_piece(self):
        first, second = self.gate(), self.gate()
        pieces = [{"text": "One"}, {"until": first}, {"text": ", two"}, {"until": second}, *say(", three.")]
        self.server.answer = lambda body: pieces
        self.say("Count")
        expect(self.answer).to_have_text("One")
        expect(self.page.get_by_role("button", name="Stop")).to_be_visible()
        first.set()
        expect(self.answer).to_have_text("One, two")
        second.set()
        expect(self.answer).to_have_text("One, two, three.")
        self.wait()
        self.assertEqual(self.asked(), [("user", "Count")])

    def test_thinking_is_folded(self):
        thought, said = self.gate(), self.gate()
        self.server.answer = lambda body: [{"reasoning": "A *secret*"}, {"until": thought}, {"reasoning": " plan"}, *say("Done.")]
        self.say("Think")
        fold = self.page.locator("details.thinking")
        expect(fold).to_contain_text("Thinking…")
        expect(fold).to_contain_text(re.compile(r"[1-9]\d* s"))
        expect(fold.locator(".md")).not_to_be_visible()
        thought.set()
        expect(self.answer).to_have_text("Done.")
        expect(fold.locator("summary")).to_contain_text(re.compile(r"Thought for \d+ s"))
        fold.locator("summary").click()
        expect(fold.locator(".md")).to_have_text("A secret plan")
        expect(fold.locator("em")).to_have_text("secret")
        self.ask("And then?")
        self.assertEqual(self.server.requests[-1]["messages"][1]["reasoning_content"], "A *secret* plan")

    def test_stop_keeps_what_came(self):
        for stop in (lambda: self.page.get_by_role("button", name="Stop").click(), lambda: self.page.keyboard.press("Escape")):
            self.server.left.clear()
            self.server.answer = lambda body: [{"text": "Half of"}, {"until": self.server.left}, {"text": " it"}]
            self.say("Go")
            expect(self.answer).to_have_text("Half of")
            stop()
            expect(self.page.locator(".note:visible").last).to_have_text("Stopped.")
            self.wait()
            self.assertTrue(self.server.left.wait(WAIT_MS / 1000), "the server was not told")
            expect(self.answer).to_have_text("Half of")
        self.ask("Go on", "It is.")
        self.assertEqual(self.asked()[1], ("assistant", "Half of"))

    def test_the_prompts_progress_is_shown(self):
        read = self.gate()
        self.server.answer = lambda body: [{"progress": (1200, 2600)}, {"until": read}, *say("Read.")]
        self.say("Read this")
        expect(self.page.get_by_text("Reading the prompt: 1,200 of 2,600 tokens")).to_be_visible()
        expect(self.page.get_by_role("progressbar")).to_be_visible()
        read.set()
        expect(self.answer).to_have_text("Read.")
        expect(self.page.get_by_role("progressbar")).to_be_hidden()
        self.assertIs(self.server.requests[0]["return_progress"], True)

    def test_a_server_is_sent_nothing_that_it_does_not_know(self):
        self.server.model = {"id": "plain"}
        self.page.reload()
        expect(self.page.get_by_text("plain", exact=True)).to_be_visible()
        self.ask("Hi")
        self.assertEqual(sorted(self.server.requests[0]), ["messages", "model", "stream", "stream_options"])
        self.assertEqual(self.server.requests[0]["model"], "plain")

    def test_numbers_are_the_servers(self):
        self.ask("Hi", "Hello.", prompt=1000, cached=600, answer=50)
        expect(self.page.locator(".stats")).to_have_text("50 tokens at 20/s · prompt 1,000 (600 known) at 200/s")
        expect(self.page.locator("#context")).to_have_text("1,050 of 4,096 tokens of context")
        self.ask("Hi", "Hello.", prompt=4000, answer=20)
        expect(self.page.locator("#context")).to_have_class("near")

    def test_numbers_are_the_pages_own_without_timings(self):
        numbers = {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}
        self.server.answer = lambda body: [{"text": "Hel"}, {"pause": 0.05}, {"text": "lo"}, {"finish": "stop"}, {"usage": numbers}]
        self.ask("Hi")
        expect(self.page.locator(".stats")).to_have_text(re.compile(r"^2 tokens at [\d.,]+/s · prompt 9 at [\d.,]+/s$"))

    def test_an_answer_that_is_too_long_says_so(self):
        self.server.answer = lambda body: [{"text": "And so"}, {"finish": "length"}]
        self.ask("Tell")
        expect(self.page.locator(".note")).to_contain_text("Cut off")

    def test_the_page_follows_only_at_its_end(self):
        more, end = self.gate(), self.gate()
        lines = "\n\n".join(f"Line {i}." for i in range(60))
        self.server.answer = lambda body: [{"text": lines}, {"until": more}, {"text": "\n\nNext."}, {"until": end}, *say("\n\nLast.")]
        self.say("Talk")
        expect(self.page.get_by_text("Line 59.")).to_be_in_viewport()
        self.page.locator("#scroller").evaluate("scroller => scroller.scrollTop = 0")
        latest = self.page.get_by_role("button", name="To the newest message")
        expect(latest).to_be_visible()
        more.set()
        expect(self.page.get_by_text("Next.")).not_to_be_in_viewport()
        expect(self.page.get_by_text("Next.")).to_be_attached()
        self.assertEqual(self.page.locator("#scroller").evaluate("scroller => scroller.scrollTop"), 0)
        latest.click()
        end.set()
        expect(self.answer.get_by_text("Last.")).to_be_in_viewport()
        expect(latest).to_be_hidden()

    def test_code_that_grows_keeps_its_element(self):
        more = self.gate()
        self.server.answer = lambda body: [{"text": "```py\na = 1\n"}, {"until": more}, *say("b = 2\n```\n")]
        self.say("Code")
        expect(self.answer.locator("code")).to_have_text("a = 1")
        self.answer.locator("code").evaluate("code => window.kept = code")
        more.set()
        expect(self.answer.locator("code")).to_contain_text("b = 2")
        self.assertTrue(self.page.evaluate("kept === document.querySelector('.turn.model code')"))


class TestKeyboard(PageTest):
    def test_enter_sends_and_shift_enter_does_not(self):
        field = self.page.get_by_label("Message", exact=True)
        expect(field).to_be_focused()
        self.page.keyboard.type("one")
        self.page.keyboard.press("Shift+Enter")
        self.page.keyboard.type("two")
        expect(field).to_have_value("one\ntwo")
        self.page.keyboard.press("Enter")
        expect(self.answer).to_have_text("Hello.")
        expect(field).to_have_value("")
        self.assertEqual(self.asked(), [("user", "one\ntwo")])

    def test_nothing_is_not_sent(self):
        self.page.keyboard.type("  ")
        self.page.keyboard.press("Enter")
        self.ask("Hi")
        self.assertEqual(len(self.server.requests), 1)

    def test_while_an_answer_comes_a_message_waits_in_its_field(self):
        end = self.gate()
        self.server.answer = lambda body: [{"text": "Wait"}, {"until": end}, *say("ed.")]
        self.say("First")
        expect(self.answer).to_have_text("Wait")
        self.page.keyboard.type("Second")
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_label("Message", exact=True)).to_have_value("Second")
        end.set()
        self.wait()
        self.assertEqual(len(self.server.requests), 1)

    def test_on_a_touch_screen_enter_begins_a_line(self):
        self.open(**PHONE)
        self.page.get_by_label("Message", exact=True).click()
        self.page.keyboard.type("one")
        self.page.keyboard.press("Enter")
        self.page.keyboard.type("two")
        expect(self.page.get_by_label("Message", exact=True)).to_have_value("one\ntwo")


class TestVersions(PageTest):
    def test_an_edited_message_begins_a_branch(self):
        self.ask("First", "One.")
        self.ask("Second", "Two.")
        self.page.get_by_role("button", name="Edit", exact=True).first.click()
        editor = self.page.get_by_label("Edit message")
        expect(editor).to_be_focused()
        expect(editor).to_have_value("First")
        editor.fill("Other")
        self.server.answer = lambda body: say("Three.")
        editor.press("Enter")
        expect(self.answers).to_have_text(["Three."])
        self.wait()
        self.assertEqual(self.asked(), [("user", "Other")])
        expect(self.page.locator(".pager:not([hidden])")).to_have_text("2/2")
        self.page.get_by_role("button", name="Version before").click()
        expect(self.answers).to_have_text(["One.", "Two."])
        self.ask("Third")
        self.assertEqual(self.asked()[-3:], [("user", "Second"), ("assistant", "Two."), ("user", "Third")])

    def test_an_edit_can_be_given_up(self):
        self.ask("First", "One.")
        self.hover_last("Edit").click()
        self.page.get_by_label("Edit message").fill("Other")
        self.page.keyboard.press("Escape")
        expect(self.page.locator(".said")).to_have_text("First")
        self.assertEqual(len(self.server.requests), 1)

    def test_an_answer_can_be_asked_for_again(self):
        self.ask("First", "One.")
        self.server.answer = lambda body: say("Two.")
        self.hover_last("Answer again").click()
        expect(self.answers).to_have_text(["Two."])
        self.wait()
        self.assertEqual(self.asked(), [("user", "First")])
        self.page.get_by_role("button", name="Version before").click()
        expect(self.answers).to_have_text(["One."])
        self.page.reload()
        expect(self.answers).to_have_text(["One."])
        expect(self.page.locator(".pager:not([hidden])")).to_have_text("1/2")

    def test_copying(self):
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.ask("First", "Some *text*:\n\n```\ncode & more\n```\n")
        for name, text in (("Copy code", "code & more"), ("Copy answer", "Some *text*:\n\n```\ncode & more\n```\n"), ("Copy message", "First")):
            self.hover_last(name).click()
            expect(self.page.locator("#announce")).to_have_text("Copied")
            self.assertEqual(self.page.evaluate("navigator.clipboard.readText()"), text)
            self.page.evaluate("document.getElementById('announce').textContent = ''")

    def test_copying_where_the_browser_has_no_clipboard(self):
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.ask("First", "Some text.")
        self.page.evaluate("() => void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
        self.hover_last("Copy answer").click()
        expect(self.page.locator("#announce")).to_have_text("Copied")
        self.assertEqual(self.page.evaluate("navigator.clipboard.readText()"), "Some text.")


class TestKept(PageTest):
    def test_a_reload_keeps_the_conversation(self):
        self.ask("What is kept?", "All of it.")
        self.page.reload()
        expect(self.page.locator(".said")).to_have_text("What is kept?")
        expect(self.answer).to_have_text("All of it.")
        expect(self.page.get_by_role("heading", level=1)).to_have_text("What is kept?")
        self.ask("Sure?")
        self.assertEqual(self.asked()[:2], [("user", "What is kept?"), ("assistant", "All of it.")])

    def test_a_reload_in_an_answer_keeps_what_came(self):
        self.server.answer = lambda body: [{"text": "Half of"}, {"until": self.server.left}]
        self.say("Go")
        expect(self.answer).to_have_text("Half of")
        self.page.reload()
        expect(self.answer).to_have_text("Half of")
        expect(self.page.locator(".note")).to_contain_text("Interrupted")

    def test_the_list_and_the_browsers_buttons(self):
        self.ask("Apples", "Red.")
        self.page.get_by_role("button", name="New conversation").first.click()
        expect(self.page.locator(".turn")).to_have_count(0)
        self.ask("Pears", "Green.")
        links = self.page.locator("#list a")
        expect(links).to_have_text(["Pears", "Apples"])
        links.last.click()
        expect(self.answers).to_have_text(["Red."])
        expect(links.last).to_have_attribute("aria-current", "page")
        self.page.go_back()
        expect(self.answers).to_have_text(["Green."])

    def test_an_answer_goes_on_while_another_conversation_is_shown(self):
        end = self.gate()
        self.ask("Apples", "Red.")
        self.page.get_by_role("button", name="New conversation").first.click()
        self.server.answer = lambda body: [{"text": "Gre"}, {"until": end}, *say("en.")]
        self.say("Pears")
        expect(self.answer).to_have_text("Gre")
        self.page.locator("#list a", has_text="Apples").click()
        expect(self.answers).to_have_text(["Red."])
        end.set()
        expect(self.page.locator("#list .busy")).to_have_count(0)
        self.page.locator("#list a", has_text="Pears").click()
        expect(self.answers).to_have_text(["Green."])

    def test_rename_export_delete_and_undo(self):
        self.server.answer = lambda body: [{"reasoning": "Hm."}, *say("Red.")]
        self.ask("Apples")
        menu = self.page.get_by_role("button", name="This conversation")
        menu.click()
        self.page.get_by_role("button", name="Rename").click()
        self.page.get_by_label("Title").fill("Fruit & more")
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_role("heading", level=1)).to_have_text("Fruit & more")
        expect(self.page.locator("#list a")).to_have_text(["Fruit & more"])
        menu.click()
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Export as JSON").click()
        self.assertEqual(download.value.suggested_filename, "fruit-more.json")
        exported = json.loads(pathlib.Path(download.value.path()).read_text())
        self.assertEqual(exported["title"], "Fruit & more")
        answer = {"role": "assistant", "content": "Red.", "reasoning_content": "Hm.", "model": "mock-7b"}
        self.assertEqual(exported["messages"], [{"role": "user", "content": "Apples"}, answer])
        menu.click()
        self.page.get_by_role("button", name="Delete").click()
        expect(self.page.locator("#list a")).to_have_count(0)
        expect(self.page.locator(".turn")).to_have_count(0)
        self.page.get_by_role("button", name="Undo").click()
        expect(self.answers).to_have_text(["Red."])
        self.page.reload()
        expect(self.answers).to_have_text(["Red."])

    def test_what_is_deleted_while_it_is_answered_stays_deleted(self):
        self.server.answer = lambda body: [{"text": "Half of"}, {"until": self.server.left}]
        self.say("Go")
        expect(self.answer).to_have_text("Half of")
        self.page.locator("#list li").hover()
        self.page.get_by_role("button", name="More about Go").click()
        self.page.get_by_role("button", name="Delete").click()
        self.assertTrue(self.server.left.wait(WAIT_MS / 1000))
        expect(self.page.locator("#list a")).to_have_count(0)
        self.page.reload()
        expect(self.page.locator("#model")).not_to_be_empty()
        expect(self.page.locator("#list a")).to_have_count(0)

    def test_two_tabs_show_the_same(self):
        other = self.tab()
        self.ask("Apples", "Red.")
        link = other.locator("#list a")
        expect(link).to_have_text(["Apples"])
        link.click()
        expect(other.locator(".turn.model > .md")).to_have_text(["Red."])
        self.ask("Pears?", "Green.")
        expect(other.locator(".turn.model > .md")).to_have_text(["Red.", "Green."])

    def test_a_full_browser_says_so(self):
        self.page.evaluate("() => void (IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError'); })")
        self.ask("Hi", "Hello.")
        expect(self.page.locator("#notice")).to_contain_text("no room left")
        expect(self.answer).to_have_text("Hello.")

    def test_without_storage_the_page_works_and_says_so(self):
        self.page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: { open() { throw new Error('no'); } } })")
        self.page.reload()
        expect(self.page.locator("#notice")).to_contain_text("only until the page is closed")
        self.ask("Hi", "Hello.")
        expect(self.answer).to_have_text("Hello.")


class TestSettings(PageTest):
    def test_settings_are_sent_and_kept(self):
        self.page.get_by_role("button", name="Settings").click()
        expect(self.page.get_by_label("API key")).to_be_hidden()
        self.page.get_by_label("System prompt").fill("Be brief.")
        self.page.get_by_label("Thinking").select_option("off")
        self.page.get_by_label("Temperature").fill("0.3")
        self.page.get_by_role("button", name="Done").click()
        self.page.reload()
        self.ask("Hi")
        request = self.server.requests[0]
        self.assertEqual(request["messages"][0], {"role": "system", "content": "Be brief."})
        self.assertEqual((request["reasoning_effort"], request["temperature"]), ("none", 0.3))


class TestFailures(PageTest):
    def test_a_server_that_is_gone(self):
        self.expected.append("ERR_INTERNET_DISCONNECTED")
        self.context.set_offline(True)
        self.say("Hi")
        expect(self.failure).to_contain_text("The server does not answer.")
        expect(self.page.locator("#model")).to_have_text("The server does not answer")
        self.context.set_offline(False)
        self.page.get_by_role("button", name="Try again").click()
        expect(self.answers).to_have_text(["Hello."])
        expect(self.page.locator("#model")).to_have_text("mock-7b")
        expect(self.page.locator(".pager:not([hidden])")).to_have_count(0)

    def test_a_message_after_a_failed_one_goes_with_it(self):
        self.server.answer = lambda body: self.refuse(500, "out of luck")
        self.say("First")
        expect(self.failure).to_contain_text("Out of luck.")
        self.ask("Second", "Both.")
        self.assertEqual(self.asked(), [("user", "First\n\nSecond")])

    def test_a_conversation_that_does_not_fit(self):
        self.server.answer = lambda body: self.refuse(400, "5000 tokens, but the context holds 4096", "context_length_exceeded")
        self.say("Long")
        expect(self.failure).to_contain_text("does not fit into the context")
        expect(self.failure).to_contain_text("5000 tokens, but the context holds 4096.")
        expect(self.failure).to_contain_text("Begin a new conversation")

    def test_a_busy_server_is_asked_again(self):
        for status, words in ((429, "The server is busy."), (503, "The server cannot answer now.")):
            answers = [self.refuse(status, "wait", Retry_After="1"), say("At last.")]
            self.server.answer = lambda body: answers.pop(0)
            self.say("Hi")
            expect(self.page.locator(".state:visible")).to_contain_text(f"{words} Asking again in 1 s.")
            expect(self.answer).to_have_text("At last.")
            self.wait()

    def test_waiting_for_a_busy_server_can_be_stopped(self):
        self.server.answer = lambda body: self.refuse(429, "wait", Retry_After="100")
        self.say("Hi")
        expect(self.page.locator(".state:visible")).to_contain_text("Asking again in 1 min 40 s.")
        self.page.get_by_role("button", name="Stop").click()
        expect(self.page.locator(".note")).to_have_text("Stopped.")
        self.assertEqual(len(self.server.requests), 1)

    def test_an_error_in_the_stream(self):
        self.server.answer = lambda body: [{"text": "Half of"}, {"error": {"message": "the disk has failed"}}]
        self.say("Hi")
        expect(self.failure).to_contain_text("The disk has failed.")
        expect(self.answer).to_have_text("Half of")

    def test_a_connection_that_breaks_off(self):
        self.expected.append("ERR_INCOMPLETE_CHUNKED_ENCODING")
        seen = self.gate()
        self.server.answer = lambda body: [{"text": "Half of"}, {"until": seen}, {"cut": True}]
        self.say("Hi")
        expect(self.answer).to_have_text("Half of")
        seen.set()
        expect(self.failure).to_contain_text("The connection broke off.")
        expect(self.answer).to_have_text("Half of")


HOSTILE = """<img src=x onerror="window.hit = 1"> <script>window.hit = 2</script> <iframe src="https://evil.example/"></iframe>

[a](javascript:window.hit=3) [b](JaVaScRiPt:window.hit=4) [c](data:text/html,<script>window.hit=5</script>) [d](//evil.example/x)
[e](\tjavascript:window.hit=6) [f](vbscript:x) [g](https://good.example/"onmouseover="window.hit=7) <javascript:window.hit=8>
![picture](https://evil.example/pixel.png) https://evil.example/<img/src=x/onerror=window.hit=9>

```html
<img src=x onerror="window.hit = 10">
```
```"><img src=x onerror="window.hit=11">
code
```
| <b>head</b> | <a href="javascript:window.hit=12">x</a> |
|---|---|
| <svg onload="window.hit=13"> | <style>*{display:none}</style> |
"""


class TestHostile(PageTest):
    def test_a_models_text_stays_text(self):
        self.server.answer = lambda body: [{"reasoning": HOSTILE}, *say(*re.findall(r"(?s).{1,7}", HOSTILE))]
        self.ask("Be evil")
        self.page.locator("details.thinking summary").click()
        expect(self.answer).to_contain_text('<img src=x onerror="window.hit = 1"> <script>window.hit = 2</script>')
        expect(self.answer).to_contain_text("[a](javascript:window.hit=3)")
        for link in self.page.locator(".turn.model a").all():
            self.assertRegex(link.get_attribute("href"), "^https?://")
            self.assertEqual((link.get_attribute("rel"), link.get_attribute("target")), ("noopener noreferrer", "_blank"))
        found = "document.querySelectorAll('.turn :is(img, script, iframe, style, object, embed, form, link, base)').length"
        self.assertEqual(self.page.evaluate(found), 0)
        handlers = "[...document.querySelectorAll('.turn *')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length"
        self.assertEqual(self.page.evaluate(handlers), 0)
        self.assertIsNone(self.page.evaluate("window.hit ?? null"))

    def test_a_users_text_stays_text(self):
        self.ask(HOSTILE, "Hm.")
        self.page.reload()
        expect(self.page.locator(".said")).to_contain_text('<img src=x onerror="window.hit = 1">')
        self.assertEqual(self.page.evaluate("document.querySelectorAll('.turn img').length"), 0)
        expect(self.page.locator("#list a")).to_contain_text("<img src=x")

    def test_no_text_takes_long(self):
        n = 20_000
        texts = [
            "*a " * n, "**a" * n, "_a " * n, "[" * n, "![" * n, "[a](" * n, "`a``" * n, "> " * n, "- " * n, "1. " * n, "#" * n,
            "# " * n, "# a" + " " * n + "b", "|" * n + "\n" + "|-" * n + "|\n" + ("|" * n + "\n") * 20, "http://a" + ")" * n,
            "http://a" + "." * n + "a", "*_" * n, "a\n" * n, "- a\n" * n, "".join(" " * i + "- a\n" for i in range(400)),
            ">" * 400 + " a\n" * 400, "```\n" * 2000, "~~a" * n, "<http://a" * n, "\\" * n, "-" * n, "- - " * n, "* " * n + "x",
            " " * n + "x", "`" * n, "` " + " " * n + "`", "[a](b '" * n, "a" + "*" * n + "b", "|a" * n + "\n" + "|-" * n,
        ]
        measure = """async (text) => {
            const { render } = await import("/markdown.js");
            const into = document.createElement("div");
            const from = performance.now();
            render(into, text);
            const ms = performance.now() - from;
            document.getElementById("thread").replaceChildren(into);
            into.getBoundingClientRect();
            return ms;
        }"""
        for text in texts:
            ms = self.page.evaluate(measure, text)
            self.assertLess(ms, 1500 * options.slow, f"{text[:12]!r}...")


MARKDOWN = [
    ("a\nb", "<p>a<br>b</p>"),
    ("**a** *b* __c__ _d_ ***e***", "<p><strong>a</strong> <em>b</em> <strong>c</strong> <em>d</em> <em><strong>e</strong></em></p>"),
    ("**a *b* c** ~~d~~", "<p><strong>a <em>b</em> c</strong> <del>d</del></p>"),
    ("2 * 3 * 4, snake_case_name, \\*a\\*", "<p>2 * 3 * 4, snake_case_name, *a*</p>"),
    ("**open", "<p>**open</p>"),
    ("`a*b*` ``c`d`` `open", "<p><code>a*b*</code> <code>c`d</code> `open</p>"),
    ("# A #\n## B\n####### C", "<h3>A</h3><h4>B</h4><p>####### C</p>"),
    ("a\n***\nb", "<p>a</p><hr><p>b</p>"),
    ("> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"),
    ("- a\n- b\n  - c\n- d", "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li><li><p>d</p></li></ul>"),
    ("3. a\n\n   b\n4. c\n\nd", '<ol start="3"><li><p>a</p><p>b</p></li><li><p>c</p></li></ol><p>d</p>'),
    ("1. a\n  - b\n2. c", '<ol start="1"><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ol>'),
    ("- a\nb", "<ul><li><p>a<br>b</p></li></ul>"),
    ("- a\n\n1. b", '<ul><li><p>a</p></li></ul><ol start="1"><li><p>b</p></li></ol>'),
    ("| a | b |\n|:-:|--:|\n| 1 | `\\|` | 3 |\n| 2 |",
     '<table><thead><tr><th class="center">a</th><th class="right">b</th></tr></thead><tbody><tr><td class="center">1</td>'
     '<td class="right"><code>|</code></td></tr><tr><td class="center">2</td></tr></tbody></table>'),
    ("[a](https://b.c/d_(e)_f \"g\")!", "<p><a>a</a>!</p>"),
    ("see https://a.b/c_d. (http://e.f)", "<p>see <a>https://a.b/c_d</a>. (<a>http://e.f</a>)</p>"),
    ("<https://a.b> ![c](https://d.e) [**f**](http://g)", "<p><a>https://a.b</a> <a>c</a> <a><strong>f</strong></a></p>"),
    ("[a](b) [c] [d](ftp://e)", "<p>[a](b) [c] [d](ftp://e)</p>"),
    ("```js\na\n\n  b\n```\nc", "<pre>a\n\n  b</pre><p>c</p>"),
    ("~~~\n```\n~~~", "<pre>```</pre>"),
    ("```\nopen", "<pre>open</pre>"),
    ("1. a\n   ```\n   b\n     c\n   ```\n2. d", '<ol start="1"><li><p>a</p><pre>b\n  c</pre></li><li><p>d</p></li></ol>'),
    ("a <b>c</b> &amp; \\<", "<p>a &lt;b&gt;c&lt;/b&gt; &amp;amp; &lt;</p>"),
]


class TestMarkdown(PageTest):
    SHOW = """async (texts) => {
        const { render } = await import("/markdown.js");
        const into = document.createElement("div");
        for (const text of texts) render(into, text);
        for (const code of into.querySelectorAll("figure")) {
            const pre = document.createElement("pre");
            pre.textContent = code.querySelector("code").textContent;
            code.replaceWith(pre);
        }
        for (const table of into.querySelectorAll("div.table")) table.replaceWith(...table.childNodes);
        for (const e of into.querySelectorAll("a")) for (const { name } of [...e.attributes]) e.removeAttribute(name);
        for (const left of into.querySelectorAll("[class=left]")) left.removeAttribute("class");
        return into.innerHTML;
    }"""

    def test_markdown_is_shown_as_what_it_means(self):
        for text, shown in MARKDOWN:
            with self.subTest(text):
                self.assertEqual(self.page.evaluate(self.SHOW, [text]), shown)

    def test_what_is_shown_does_not_depend_on_how_the_text_came(self):
        for text in [*(text for text, _ in MARKDOWN), mock.EXAMPLE]:
            with self.subTest(text):
                growing = [text[:n] for n in range(1, len(text) + 1)]
                self.assertEqual(self.page.evaluate(self.SHOW, growing), self.page.evaluate(self.SHOW, [text]))

    def test_links_lead_where_they_say(self):
        self.ask("Link", "[a](https://b.c/d_(e)_f \"g\") and https://h.i/j_k.")
        hrefs = [link.get_attribute("href") for link in self.answer.locator("a").all()]
        self.assertEqual(hrefs, ["https://b.c/d_(e)_f", "https://h.i/j_k"])


CONTRAST = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const [r, g, b, a = 1] = channels(getComputedStyle(at).backgroundColor);
            if (a === 1) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const poor = [];
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(".unseen")) continue;
        const [a, b] = [channels(getComputedStyle(element).color), ground(element)].map(luminance).sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${walker.currentNode.data}`);
    }
    return poor;
}"""

NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a, dialog, nav, [role=region]")]
    .filter((e) => !(e.ariaLabel || e.getAttribute("aria-labelledby") || e.labels?.length || e.textContent.trim()))
    .map((e) => e.outerHTML)"""

SMALL = """() => [...document.querySelectorAll("button, input, select, summary, #text, #list a")]
    .filter((e) => e.checkVisibility()).map((e) => [e.getBoundingClientRect(), e])
    .filter(([{ width, height }]) => width < 36 || height < 36).map(([, e]) => e.outerHTML)"""


class TestLooks(PageTest):
    """How the page looks on a phone and on a desktop, light and dark: what can be measured, and with --shots, pictures."""

    def test_every_size_and_scheme(self):
        for device, settings in (("phone", PHONE), ("small", {"viewport": {"width": 320, "height": 480}}), ("desktop", DESKTOP)):
            for scheme in ("light", "dark"):
                with self.subTest(device=device, scheme=scheme):
                    self.open(color_scheme=scheme, **settings)
                    self.walk(f"{device}-{scheme}")

    def walk(self, name):
        steps = [self.welcome, self.answered, self.top, self.reading, self.failed, self.editing, self.listed, self.settings]
        for at, step in enumerate(steps):
            step()
            self.check(f"{name}-{at}-{step.__name__}")

    def check(self, name):
        if options.shots:
            self.page.screenshot(path=str(pathlib.Path(options.shots) / f"{name}.png"))
        # `innerWidth` would not do: a phone zooms out until what is too wide fits.
        width = self.page.viewport_size["width"]
        self.assertEqual(self.page.evaluate("document.documentElement.scrollWidth"), width, name)
        self.assertEqual(self.page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.getElementById('scroller'))"), 0, name)
        for element in ("#composer", "#send:visible, #stop:visible", "#title"):
            expect(self.page.locator(element)).to_be_in_viewport(ratio=1)
        self.assertEqual(self.page.evaluate(CONTRAST), [], name)
        self.assertEqual(self.page.evaluate(NAMELESS), [], name)
        if "phone" in name:
            self.assertEqual(self.page.evaluate(SMALL), [], name)

    def welcome(self):
        expect(self.page.locator("#welcome")).to_be_visible()

    def answered(self):
        self.server.answer = lambda body: [
            {"reasoning": "The user asks about *white dwarfs*.\n\n- mass\n- radius"}, *say(mock.EXAMPLE, prompt=2000, cached=500)]
        self.ask("What is a white dwarf, and how large is one? " + "Averylongword" * 12)
        expect(self.page.locator(".stats").last).to_be_in_viewport()

    def top(self):
        self.page.locator("details.thinking summary").last.click()
        self.page.locator("#scroller").evaluate("scroller => scroller.scrollTop = 0")
        expect(self.page.get_by_text("The user asks")).to_be_visible()

    def reading(self):
        read = self.gate()
        self.server.answer = lambda body: [{"progress": (1200, 2600)}, {"until": read}, *say("Yes.")]
        self.say("Is that so?")
        expect(self.page.get_by_role("progressbar")).to_be_in_viewport()
        self.reading_ends = read

    def failed(self):
        self.reading_ends.set()
        self.wait()
        message = "the prompt has 5000 tokens, but the context holds 4096, the answer included; shorten it"
        self.server.answer = lambda body: self.refuse(400, message, "context_length_exceeded")
        self.say("Again?")
        expect(self.failure.get_by_role("button", name="Try again")).to_be_in_viewport()

    def editing(self):
        self.hover_last("Edit").click()
        expect(self.page.get_by_label("Edit message")).to_be_focused()

    def listed(self):
        self.page.keyboard.press("Escape")
        if self.page.locator("#menu").is_visible():
            self.page.locator("#menu").click()
            self.page.locator("#list a").click(trial=True)

    def settings(self):
        self.page.get_by_role("button", name="Settings").click()
        expect(self.page.get_by_role("dialog")).to_be_visible()

    def test_a_covered_page_cannot_be_reached(self):
        self.open(**PHONE)
        expect(self.page.locator("#side")).to_have_attribute("inert", "")
        self.page.locator("#menu").click()
        expect(self.page.locator("#page")).to_have_attribute("inert", "")
        self.page.keyboard.press("Escape")
        expect(self.page.locator("#page")).not_to_have_attribute("inert", "")
        expect(self.page.locator("#menu")).to_be_focused()

    def test_what_happens_is_announced(self):
        said = self.page.locator("#announce")
        end = self.gate()
        self.server.answer = lambda body: [{"reasoning": "Hm."}, {"until": end}, *say("Yes.")]
        self.say("Is it?")
        expect(said).to_have_text("Thinking")
        end.set()
        expect(said).to_have_text("Answer: Yes.")


class TestServer(PageTest):
    """The page and the server, with nothing between them but words that the model is held to: its weights may be random."""

    is_scripted = False

    def setUp(self):
        if not options.url:
            self.skipTest("there is no server")
        super().setUp()

    def open(self, **settings):
        self.expected.append("status of 401")
        super().open(**settings)
        self.page.get_by_label("API key").fill(options.key)
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_label("API key")).to_be_hidden()

    def hold(self, **fields):
        """Adds these fields to what the page asks from now on."""
        def add(route):
            route.continue_(post_data=json.dumps({**route.request.post_data_json, **fields}))
        self.page.unroute("**/v1/chat/completions")
        self.page.route("**/v1/chat/completions", add)

    def hold_to(self, text):
        """Has the model say exactly this, marks included."""
        tokens = self.of_server("/tokenize", method="POST", data={"content": text, "parse_special": True})["tokens"]
        rule = " ".join(f"<[{id}]>" for id in tokens)
        self.hold(structured_outputs={"grammar": f"start: {rule}", "raw": True})

    def of_server(self, path, **fields):
        """What the server says to others than the page."""
        headers = {"Authorization": f"Bearer {options.key}"}
        return self.page.request.fetch(options.url + path, headers=headers, **fields).json()

    def name(self):
        return self.of_server("/v1/models")["data"][0]["id"]

    def test_a_key_is_asked_for_and_stays_in_the_tab(self):
        PageTest.open(self)
        field, model = self.page.get_by_label("API key"), self.page.locator("#model")
        expect(field).to_be_focused()
        field.fill("a key that is wrong")
        with self.page.expect_response("**/v1/models"):
            self.page.keyboard.press("Enter")
        expect(field).to_be_focused()
        expect(model).to_have_text("The server asks for an API key.")
        self.page.keyboard.press("Escape")
        self.hold_to("Hm.</think>Hello.")
        self.say("Hi")
        expect(field).to_be_focused()
        field.fill(options.key)
        self.page.keyboard.press("Enter")
        expect(self.answer).to_have_text("Hello.")
        self.wait()
        expect(model).to_have_text(self.name())
        self.assertNotIn(options.key, self.page.evaluate("JSON.stringify(localStorage)"))
        self.page.reload()
        expect(model).to_have_text(self.name())
        expect(field).to_be_hidden()

    def test_an_answer_comes_and_is_kept(self):
        for settings in (PHONE, DESKTOP):
            self.open(**settings)
            self.hold_to(f"Let me *think*.</think>It is **{'very' * 30}** large:\n\n```\n{'wide ' * 40}\n```\n")
            self.ask("How large is it?")
            fold = self.page.locator("details.thinking")
            expect(fold.locator("summary")).to_contain_text("Thought for")
            expect(fold.locator(".md")).not_to_be_visible()
            expect(self.answer.locator("strong")).to_have_text("very" * 30)
            expect(self.page.locator(".stats")).to_have_text(re.compile(r"^\d+ tokens at [\d.,]+/s · prompt \d+"))
            expect(self.page.locator("#context")).to_have_text(re.compile(r"^[\d,]+ of 65,536 tokens of context$"))
            expect(self.page.locator("#model")).to_have_text(self.name())
            self.assertEqual(self.page.evaluate("document.documentElement.scrollWidth"), settings["viewport"]["width"])
            self.page.reload()
            expect(self.answer.locator("code")).to_have_text("wide " * 40)
            fold.locator("summary").click()
            expect(fold.locator(".md")).to_have_text("Let me think.")
            self.hold_to("Sure.</think>Yes.")
            self.ask("Is that so?")
            expect(self.answer).to_have_text("Yes.")
            expect(self.page.locator(".stats").last).to_contain_text(re.compile(r"prompt \d+ \([1-9]\d* known\)"))

    def test_an_answer_can_be_stopped_and_gone_on_from(self):
        self.hold(reasoning_effort="none", structured_outputs={"regex": "([a-z]{6} ){9000}"})
        self.say("Talk.")
        expect(self.answer).not_to_be_empty()
        self.page.get_by_role("button", name="Stop").click()
        expect(self.page.locator(".note:visible")).to_have_text("Stopped.")
        said = self.answer.inner_text()
        self.assertLess(len(said), 7 * 9000 - 1)
        self.hold_to("Well.</think>I go on.")
        self.ask("Go on.")
        expect(self.answers).to_have_text([said, "I go on."], use_inner_text=True)
        expect(self.failure).to_have_count(0)

    def test_what_does_not_fit_is_told(self):
        self.expected.append("status of 400")
        self.say("x" * 70_000)
        expect(self.failure).to_contain_text("does not fit into the context")

    def test_the_policy_is_strict(self):
        policy = self.page.request.get(self.url).headers.get("content-security-policy", "")
        self.assertRegex(policy, "default-src '(self|none)'")
        self.assertNotIn("unsafe", policy)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", type=lambda url: url.rstrip("/"), help="of a server, as in http://127.0.0.1:8000")
    parser.add_argument("--key", help="that the server asks for")
    parser.add_argument("--shots", help="a folder for pictures")
    parser.add_argument("--slow", type=float, default=1, help="wait so many times as long: for a slow model or machine")
    _, rest = parser.parse_known_args(namespace=options)
    if options.shots:
        pathlib.Path(options.shots).mkdir(parents=True, exist_ok=True)
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
