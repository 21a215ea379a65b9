"""The Python libraries of OpenAI and Anthropic against the server: `cargo xtask clients sdk-python` runs this.

SERVER is the server's URL, and KEY the key that it asks for. Its model is called `micro`, has random weights and room for 4096
tokens. Where a test needs an answer that makes sense, it holds the model to one (`said`); all else is about what any answer is like.
"""

import json
import os
import unittest
import urllib.request

import anthropic
import openai
import pydantic

SERVER, KEY, MODEL = os.environ["SERVER"], os.environ["KEY"], "micro"
MARKS = ["</think>", "｜DSML｜"]
HELLO = [{"role": "user", "content": "Hello"}]
PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["path"],
}
ARGUMENTS = {"path": 'a "b"', "n": 3}
# How the model calls a tool `look` with these arguments, after it has thought.
CALL = (
    "I wonder.</think>Let me look.\n\n<｜DSML｜tool_calls>\n"
    '<｜DSML｜invoke name="look">\n<｜DSML｜parameter name="path" string="true">a "b"</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="n" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
SEEN = "I see.</think>It is a file."


def ask(path, body):
    """The reply to a request that no library has a method for."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(SERVER + path, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))


def said(text):
    """Fields that have the model say exactly this, marks included."""
    ids = ask("/tokenize", {"content": "".join(MARKS), "parse_special": True})["tokens"]
    words = [text]
    for mark in MARKS:
        words = [part for word in words for part in cut(word, mark)]
    rule = " ".join(f"<[{ids[MARKS.index(w)]}]>" if w in MARKS else json.dumps(w) for w in words)
    return {"structured_outputs": {"grammar": f"start: {rule}", "raw": True}}


def cut(text, mark):
    """`text` in pieces, those that are `mark` by themselves."""
    parts = [piece for part in text.split(mark) for piece in (part, mark)][:-1]
    return [part for part in parts if part]


class OpenAi(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=SERVER + "/v1", api_key=KEY, max_retries=0)
        self.chat = self.client.chat.completions

    def test_models_are_listed_and_found(self):
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("other")

    def test_a_stream_says_what_the_whole_says(self):
        fields = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0, "reasoning_effort": "none"}
        whole = self.chat.create(**fields)
        chunks = list(self.chat.create(**fields, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(whole.choices[0].finish_reason, "length")
        self.assertEqual(chunks[-1].usage.completion_tokens, 12)
        self.assertEqual(chunks[-1].usage.prompt_tokens, whole.usage.prompt_tokens)

    def test_several_answers_differ(self):
        fields = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 1.5, "reasoning_effort": "none"}
        answers = [choice.message.content for choice in self.chat.create(**fields, n=3).choices]
        self.assertEqual(len(set(answers)), 3)

    def test_a_call_goes_there_and_its_result_back(self):
        tools = [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]
        fields = {"model": MODEL, "tools": tools}
        first = self.chat.create(**fields, messages=HELLO, extra_body=said(CALL))
        message = first.choices[0].message
        self.assertEqual(first.choices[0].finish_reason, "tool_calls")
        self.assertEqual((message.reasoning_content, message.content), ("I wonder.", "Let me look."))
        self.assertEqual(message.tool_calls[0].function.name, "look")
        self.assertEqual(json.loads(message.tool_calls[0].function.arguments), ARGUMENTS)
        self.assertGreater(first.usage.completion_tokens_details.reasoning_tokens, 0)
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "A file."}
        second = self.chat.create(
            **fields, messages=[*HELLO, message.model_dump(exclude_none=True), result], extra_body=said(SEEN)
        )
        self.assertEqual(second.choices[0].message.content, "It is a file.")
        self.assertGreaterEqual(second.usage.prompt_tokens_details.cached_tokens, first.usage.total_tokens - 1)

    def test_a_call_is_streamed(self):
        tools = [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]
        fields = {"model": MODEL, "messages": HELLO, "tools": tools, "extra_body": said(CALL)}
        pieces = []
        for chunk in self.chat.create(**fields, stream=True):
            pieces.extend(chunk.choices[0].delta.tool_calls or [])
            reason = chunk.choices[0].finish_reason
        self.assertEqual((pieces[0].function.name, reason), ("look", "tool_calls"))
        self.assertGreater(len(pieces), 2)
        self.assertEqual(json.loads("".join(piece.function.arguments for piece in pieces)), ARGUMENTS)

    def test_an_answer_keeps_to_a_model_of_pydantic(self):
        class Answer(pydantic.BaseModel):
            sure: bool

        fields = {"model": MODEL, "messages": HELLO, "reasoning_effort": "none"}
        answer = self.chat.parse(**fields, response_format=Answer).choices[0].message.parsed
        self.assertIsInstance(answer, Answer)

    def test_answers_tell_how_likely_their_tokens_were(self):
        fields = {"model": MODEL, "messages": HELLO, "reasoning_effort": "none", "max_tokens": 50, "temperature": 0}
        likely = {**fields, "logprobs": True, "top_logprobs": 3, "extra_body": said("Fine.")}
        choice = self.chat.create(**likely).choices[0]
        told = choice.logprobs.content
        self.assertEqual(b"".join(bytes(token.bytes) for token in told), b"Fine.")
        for token in told:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertGreaterEqual(token.top_logprobs[0].logprob, token.logprob)
        chunks = self.chat.create(**likely, stream=True)
        parts = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs]
        self.assertEqual([token.token for part in parts for token in part], [token.token for token in told])
        text = self.client.completions.create(model=MODEL, prompt="Once", logprobs=2, extra_body=said("Fine."))
        told = text.choices[0].logprobs
        self.assertEqual("".join(told.tokens), "Fine.")
        self.assertTrue(all(logprob <= 0 for logprob in told.token_logprobs))

    def test_a_text_is_continued(self):
        fields = {"model": MODEL, "prompt": "Once", "max_tokens": 12, "temperature": 0}
        whole = self.client.completions.create(**fields)
        streamed = self.client.completions.create(**fields, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in streamed), whole.choices[0].text)
        echoed = self.client.completions.create(**fields, echo=True)
        self.assertEqual(echoed.choices[0].text, "Once" + whole.choices[0].text)

    def test_what_cannot_be_done_is_refused_by_its_name(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.chat.create(model=MODEL, messages=HELLO, extra_body={"temprature": 1})
        self.assertEqual((refused.exception.param, refused.exception.code), ("temprature", "unknown_parameter"))
        with self.assertRaises(openai.BadRequestError) as refused:
            self.chat.create(model=MODEL, messages=[{"role": "user", "content": "x" * 5000}])
        self.assertEqual(refused.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.NotFoundError) as refused:
            self.chat.create(model="other", messages=HELLO)
        self.assertEqual(refused.exception.code, "model_not_found")
        with self.assertRaises(openai.AuthenticationError):
            self.client.with_options(api_key="another-key-of-somebody").models.list()


class Responses(unittest.TestCase):
    TOOLS = [{"type": "function", "name": "look", "parameters": PARAMETERS, "strict": False}]

    def setUp(self):
        self.responses = openai.OpenAI(base_url=SERVER + "/v1", api_key=KEY, max_retries=0).responses

    def test_a_stream_says_what_the_whole_says(self):
        fields = {"model": MODEL, "input": "Hello", "max_output_tokens": 12, "temperature": 0}
        fields["reasoning"] = {"effort": "none"}
        whole = self.responses.create(**fields, store=False)
        self.assertEqual((whole.status, whole.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        events = list(self.responses.create(**fields, store=False, stream=True))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(text, whole.output_text)
        self.assertEqual((events[0].type, events[-1].type), ("response.created", "response.incomplete"))
        self.assertEqual(events[-1].response.usage.output_tokens, 12)
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))

    def test_a_call_goes_there_and_its_result_back(self):
        fields = {"model": MODEL, "tools": self.TOOLS, "store": False, "include": ["reasoning.encrypted_content"]}
        first = self.responses.create(**fields, input="Hello", extra_body=said(CALL))
        reasoning, message, call = first.output
        self.assertEqual((reasoning.type, message.content[0].text), ("reasoning", "Let me look."))
        self.assertEqual((call.name, json.loads(call.arguments)), ("look", ARGUMENTS))
        told = [item.model_dump(exclude_none=True) for item in first.output]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "A file."}
        conversation = [{"role": "user", "content": "Hello"}, *told, result]
        n_tokens = self.responses.input_tokens.count(model=MODEL, tools=self.TOOLS, input=conversation).input_tokens
        with self.responses.stream(**fields, input=conversation, extra_body=said(SEEN)) as stream:
            stream.until_done()
            second = stream.get_final_response()
        self.assertEqual((second.status, second.output_text), ("completed", "It is a file."))
        self.assertGreaterEqual(second.usage.input_tokens_details.cached_tokens, first.usage.total_tokens - 1)
        # What the model wrote is counted in the tokens that its text gives, and read again in those that it wrote.
        self.assertLessEqual(abs(second.usage.input_tokens - n_tokens), first.usage.output_tokens)

    def test_an_answer_keeps_to_a_schema_and_tells_how_likely_it_was(self):
        schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
        schema["additionalProperties"] = False
        fields = {"model": MODEL, "input": "Hello", "reasoning": {"effort": "none"}, "store": False}
        fields["text"] = {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}}
        response = self.responses.create(**fields, include=["message.output_text.logprobs"], top_logprobs=2)
        self.assertIsInstance(json.loads(response.output_text)["sure"], bool)
        told = response.output[0].content[0].logprobs
        self.assertEqual(b"".join(bytes(token.bytes) for token in told).decode(), response.output_text)

    def test_what_cannot_be_done_is_refused_by_its_name(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.responses.create(model=MODEL, input="Hello", previous_response_id="resp_1")
        self.assertEqual(refused.exception.param, "previous_response_id")


class Anthropic(unittest.TestCase):
    TOOLS = [{"name": "look", "description": "Looks.", "input_schema": PARAMETERS}]

    def setUp(self):
        self.client = anthropic.Anthropic(base_url=SERVER, auth_token=KEY, max_retries=0)
        self.messages = self.client.messages

    def test_a_stream_says_what_the_whole_says(self):
        fields = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "thinking": {"type": "disabled"}}
        fields["extra_body"] = {"temperature": 0}  # the library has no such field any more
        whole = self.messages.create(**fields)
        with self.messages.stream(**fields) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()
        self.assertEqual((whole.stop_reason, whole.usage.output_tokens), ("max_tokens", 12))
        self.assertEqual((text, streamed.content[0].text), (whole.content[0].text, whole.content[0].text))
        counted = self.messages.count_tokens(model=MODEL, messages=HELLO, thinking={"type": "disabled"})
        self.assertEqual(counted.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens)

    def test_an_answer_keeps_to_a_schema(self):
        schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
        form = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
        fields = {"model": MODEL, "messages": HELLO, "max_tokens": 500, "thinking": {"type": "disabled"}}
        message = self.messages.create(**fields, extra_body={"output_config": form})
        self.assertIsInstance(json.loads(message.content[0].text)["sure"], bool)

    def test_a_text_of_ours_ends_an_answer(self):
        fields = {"model": MODEL, "messages": HELLO, "max_tokens": 50, "thinking": {"type": "disabled"}}
        message = self.messages.create(**fields, stop_sequences=["cd"], extra_body=said("abcdef"))
        self.assertEqual((message.stop_reason, message.stop_sequence), ("stop_sequence", "cd"))
        self.assertEqual(message.content[0].text, "ab")

    def test_a_call_goes_there_and_its_result_back(self):
        for display in ["summarized", "omitted"]:
            fields = {"model": MODEL, "max_tokens": 1000, "tools": self.TOOLS}
            fields["thinking"] = {"type": "adaptive", "display": display}
            question = [{"role": "user", "content": f"Hello, {display}"}]
            first = self.messages.create(**fields, messages=question, extra_body=said(CALL))
            thinking, text, call = first.content
            self.assertEqual(first.stop_reason, "tool_use")
            self.assertEqual(thinking.thinking, "I wonder." if display == "summarized" else "")
            self.assertTrue(thinking.signature)
            self.assertEqual((text.text, call.name, call.input), ("Let me look.", "look", ARGUMENTS))
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "A file."}
            conversation = [
                *question,
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": [result]},
            ]
            with self.messages.stream(**fields, messages=conversation, extra_body=said(SEEN)) as stream:
                second = stream.get_final_message()
            self.assertEqual((second.stop_reason, second.content[-1].text), ("end_turn", "It is a file."))
            n_first = first.usage.input_tokens + first.usage.cache_read_input_tokens + first.usage.output_tokens
            self.assertGreaterEqual(second.usage.cache_read_input_tokens, n_first - 1)

    def test_what_cannot_be_done_is_refused(self):
        with self.assertRaises(anthropic.BadRequestError) as refused:
            self.messages.create(model=MODEL, messages=HELLO, max_tokens=1, extra_body={"temprature": 1})
        self.assertEqual(refused.exception.body["error"]["message"], "temprature: there is no such field")
        with self.assertRaises(anthropic.BadRequestError) as refused:
            long = [{"role": "user", "content": "x" * 5000}]
            self.messages.create(model=MODEL, messages=long, max_tokens=1)
        self.assertIn("but the context holds 4096", refused.exception.body["error"]["message"])
        with self.assertRaises(anthropic.NotFoundError):
            self.messages.create(model="other", messages=HELLO, max_tokens=1)
        other = anthropic.Anthropic(base_url=SERVER, api_key="another-key-of-somebody", max_retries=0)
        with self.assertRaises(anthropic.AuthenticationError):
            other.messages.create(model=MODEL, messages=HELLO, max_tokens=1)


if __name__ == "__main__":
    unittest.main()
