"""Ollama's Python library against the server: `cargo xtask clients ollama-python` runs this."""

import unittest

import ollama

from served import ARGUMENTS, ASKED, CALL, IS_REAL, KEY, LONG, MODEL, QUESTION, SEEN, SERVER, Answer, can_call, makes_sense, said


def client(key=KEY):
    return ollama.Client(SERVER, headers={"Authorization": f"Bearer {key}"})


def look(path: str, n: int = 1):
    """Looks.

    Args:
        path: where
        n: how often
    """


class Ollama(unittest.TestCase):
    FIELDS = {"model": MODEL, "think": False}
    GREEDY = {"temperature": 0, "num_predict": 5}

    def setUp(self):
        self.client = self.enterContext(client())

    def test_the_model_is_listed_and_shown(self):
        self.assertEqual([model.model for model in self.client.list().models], [MODEL])
        shown = self.client.show(MODEL)
        self.assertEqual(shown.capabilities, ["completion"] if IS_REAL else ["completion", "tools", "thinking"])
        self.assertEqual(shown.modelinfo[f"{shown.details.family}.context_length"], 4096)

    def test_a_stream_says_what_the_whole_says(self):
        fields = {**self.FIELDS, "messages": ASKED, "options": self.GREEDY}
        whole = self.client.chat(**fields)
        self.assertEqual((whole.done_reason, whole.eval_count, whole.message.role), ("length", 5, "assistant"))
        *parts, last = self.client.chat(**fields, stream=True)
        self.assertEqual("".join(part.message.content for part in parts), whole.message.content)
        self.assertEqual((last.done, last.done_reason, last.eval_count), (True, "length", 5))
        self.assertEqual(last.prompt_eval_count, whole.prompt_eval_count)

    def test_a_prompt_is_answered_or_continued(self):
        for more in ({"prompt": QUESTION, "system": "Be brief."}, {"prompt": "The capital of France is", "raw": True}):
            fields = {**self.FIELDS, **more, "options": self.GREEDY}
            whole = self.client.generate(**fields)
            *parts, last = self.client.generate(**fields, stream=True)
            self.assertEqual("".join(part.response for part in parts), whole.response)
            self.assertEqual((last.done_reason, last.eval_count), (whole.done_reason, whole.eval_count))
        if IS_REAL:
            self.assertTrue(whole.response.startswith(" Paris"), whole.response)

    @makes_sense
    def test_a_question_is_answered(self):
        answer = self.client.chat(**self.FIELDS, messages=ASKED, options={"temperature": 0})
        self.assertIn("Paris", answer.message.content)
        self.assertEqual(answer.done_reason, "stop")

    def test_an_answer_keeps_to_a_model_of_pydantic(self):
        fields = {**self.FIELDS, "format": Answer.model_json_schema(), "options": {"temperature": 0}}
        chat, text = self.client.chat(**fields, messages=ASKED), self.client.generate(**fields, prompt=QUESTION)
        for answer in (chat.message.content, text.response):
            answer = Answer.model_validate_json(answer)
            if IS_REAL:
                self.assertEqual(answer.capital, "Paris")

    def test_a_text_of_ours_ends_an_answer(self):
        answer = self.client.chat(**self.FIELDS, messages=ASKED, options={"stop": ["cd"], **said("abcdef")})
        self.assertEqual((answer.message.content, answer.done_reason), ("ab", "stop"))

    @can_call
    def test_it_thinks_calls_and_is_told_the_result(self):
        for stream in (False, True):
            fields = {"model": MODEL, "tools": [look], "think": True}
            first = self.client.chat(**fields, messages=ASKED, options=said(CALL), stream=stream)
            message = joined(first) if stream else first.message
            self.assertEqual((message.thinking, message.content), ("I wonder.", "Let me look."))
            call = message.tool_calls[0].function
            self.assertEqual((call.name, call.arguments), ("look", ARGUMENTS))
            told = [*ASKED, message, {"role": "tool", "tool_name": "look", "content": "A file."}]
            second = self.client.chat(**fields, messages=told, options=said(SEEN))
            self.assertEqual((second.message.thinking, second.message.content), ("I see.", "It is a file."))

    def test_answers_tell_how_likely_their_tokens_were(self):
        fields = {**self.FIELDS, "messages": ASKED, "logprobs": True, "top_logprobs": 3}
        fields["options"] = {"temperature": 0, **said("Fine.")}
        told = self.client.chat(**fields).logprobs
        self.assertEqual("".join(token.token for token in told), "Fine.")
        self.assertTrue(all(len(token.top_logprobs) == 3 for token in told))
        streamed = [token for part in self.client.chat(**fields, stream=True) for token in part.logprobs or []]
        self.assertEqual([token.token for token in streamed], [token.token for token in told])

    def test_what_cannot_be_done_is_refused(self):
        for status, words, asked in [
            (404, "there is no model other", lambda: self.client.chat("other", ASKED)),
            (404, "there is no model other", lambda: self.client.show("other")),
            (400, "options.temprature: there is no such field", lambda: self.client.chat(MODEL, ASKED, options={"temprature": 1})),
            (400, "but the context holds 4096", lambda: list(self.client.chat(MODEL, LONG, stream=True))),
            (400, "suffix", lambda: self.client.generate(MODEL, QUESTION, suffix="x")),
            (401, "key", self.enterContext(client("another-key-of-somebody")).list),
        ]:
            with self.assertRaises(ollama.ResponseError) as refused:
                asked()
            self.assertEqual(refused.exception.status_code, status)
            self.assertIn(words, refused.exception.error)


def joined(stream):
    """The message that comes in parts."""
    parts = [part.message for part in stream]
    text = lambda name: "".join(getattr(part, name) or "" for part in parts)
    calls = [call for part in parts for call in part.tool_calls or []]
    return ollama.Message(role="assistant", content=text("content"), thinking=text("thinking"), tool_calls=calls)


if __name__ == "__main__":
    unittest.main()
