"""The Python libraries of OpenAI and Anthropic against the server: `cargo xtask clients sdk-python` runs this."""

import json
import math
import unittest
import urllib.error

import anthropic
import openai

from served import (
    ARGUMENTS,
    ASKED,
    CALL,
    IS_REAL,
    KEY,
    LONG,
    MODEL,
    PARAMETERS,
    QUESTION,
    SEEN,
    SERVER,
    Answer,
    ask,
    can_call,
    makes_sense,
    said,
    tokens,
)


class Sense(unittest.TestCase):
    """What a test says of answers that make sense, where they do."""

    def is_right(self, answer):
        self.assertIsInstance(answer, Answer)
        if IS_REAL:
            self.assertEqual(answer.capital, "Paris")


class OpenAi(Sense):
    TOOLS = [{"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}]
    FIELDS = {"model": MODEL, "messages": ASKED, "temperature": 0, "reasoning_effort": "none"}

    def setUp(self):
        self.client = openai.OpenAI(base_url=SERVER + "/v1", api_key=KEY, max_retries=0)
        self.chat = self.client.chat.completions

    def test_models_are_listed_and_found(self):
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("other")

    def test_a_stream_says_what_the_whole_says(self):
        fields = {**self.FIELDS, "max_tokens": 5}
        whole = self.chat.create(**fields)
        chunks = list(self.chat.create(**fields, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(whole.choices[0].finish_reason, "length")
        self.assertEqual(chunks[-1].usage.completion_tokens, 5)
        self.assertEqual(chunks[-1].usage.prompt_tokens, whole.usage.prompt_tokens)

    @makes_sense
    def test_a_question_is_answered(self):
        choice = self.chat.create(**self.FIELDS).choices[0]
        self.assertIn("Paris", choice.message.content)
        self.assertEqual(choice.finish_reason, "stop")

    @makes_sense
    def test_a_conversation_goes_on(self):
        answer = {"role": "assistant", "content": "The capital of France is Paris."}
        asked = [*ASKED, answer, {"role": "user", "content": "And of Italy?"}]
        text = self.chat.create(**{**self.FIELDS, "messages": asked}, max_tokens=12).choices[0].message.content
        self.assertIn("Rome", text)

    def test_several_answers_differ_and_come_again_by_their_seed(self):
        fields = {**self.FIELDS, "max_tokens": 12, "temperature": 1.5, "n": 3, "seed": 5}
        answers = [choice.message.content for choice in self.chat.create(**fields).choices]
        self.assertEqual(len(set(answers)), 3)
        self.assertEqual([choice.message.content for choice in self.chat.create(**fields).choices], answers)

    def test_a_text_of_ours_ends_an_answer(self):
        choice = self.chat.create(**self.FIELDS, stop=["cd", "x"], extra_body=said("abcdef")).choices[0]
        self.assertEqual((choice.message.content, choice.finish_reason), ("ab", "stop"))
        choice = self.client.completions.create(model=MODEL, prompt="Once", stop="cd", extra_body=said("abcdef")).choices[0]
        self.assertEqual((choice.text, choice.finish_reason), ("ab", "stop"))

    @can_call
    def test_a_call_goes_there_and_its_result_back(self):
        fields = {"model": MODEL, "tools": self.TOOLS}
        first = self.chat.create(**fields, messages=ASKED, extra_body=said(CALL))
        message = first.choices[0].message
        self.assertEqual(first.choices[0].finish_reason, "tool_calls")
        self.assertEqual((message.reasoning_content, message.content), ("I wonder.", "Let me look."))
        self.assertEqual(message.tool_calls[0].function.name, "look")
        self.assertEqual(json.loads(message.tool_calls[0].function.arguments), ARGUMENTS)
        self.assertGreater(first.usage.completion_tokens_details.reasoning_tokens, 0)
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "A file."}
        second = self.chat.create(
            **fields, messages=[*ASKED, message.model_dump(exclude_none=True), result], extra_body=said(SEEN)
        )
        self.assertEqual(second.choices[0].message.content, "It is a file.")
        self.assertGreaterEqual(second.usage.prompt_tokens_details.cached_tokens, first.usage.total_tokens - 1)

    @can_call
    def test_a_call_is_streamed(self):
        fields = {"model": MODEL, "messages": ASKED, "tools": self.TOOLS, "extra_body": said(CALL)}
        pieces = []
        for chunk in self.chat.create(**fields, stream=True):
            pieces.extend(chunk.choices[0].delta.tool_calls or [])
            reason = chunk.choices[0].finish_reason
        self.assertEqual((pieces[0].function.name, reason), ("look", "tool_calls"))
        self.assertGreater(len(pieces), 2)
        self.assertEqual(json.loads("".join(piece.function.arguments for piece in pieces)), ARGUMENTS)
        with self.chat.stream(**fields) as stream:
            call = stream.get_final_completion().choices[0].message.tool_calls[0]
        self.assertEqual((call.function.name, json.loads(call.function.arguments)), ("look", ARGUMENTS))

    def test_tools_are_shown_to_who_can_call_and_refused_by_others(self):
        fields = {**self.FIELDS, "max_tokens": 1, "tools": self.TOOLS}
        if IS_REAL:
            with self.assertRaises(openai.BadRequestError) as refused:
                self.chat.create(**fields)
            self.assertIn("has no tools", refused.exception.body["message"])
        else:
            n_tokens = self.chat.create(**{**fields, "tools": []}).usage.prompt_tokens
            self.assertGreater(self.chat.create(**fields).usage.prompt_tokens, n_tokens)

    def test_an_answer_keeps_to_a_model_of_pydantic(self):
        self.is_right(self.chat.parse(**self.FIELDS, response_format=Answer).choices[0].message.parsed)
        with self.chat.stream(**self.FIELDS, response_format=Answer) as stream:
            self.is_right(stream.get_final_completion().choices[0].message.parsed)

    @makes_sense
    def test_words_of_its_own_are_right_in_a_schema(self):
        schema = {"type": "object", "properties": {"capital": {"type": "string"}}, "required": ["capital"]}
        form = {"name": "answer", "strict": True, "schema": {**schema, "additionalProperties": False}}
        fields = {**self.FIELDS, "response_format": {"type": "json_schema", "json_schema": form}}
        self.assertEqual(json.loads(self.chat.create(**fields).choices[0].message.content), {"capital": "Paris"})

    def test_answers_tell_how_likely_their_tokens_were(self):
        likely = {**self.FIELDS, "logprobs": True, "top_logprobs": 3, "extra_body": said("Fine.")}
        choice = self.chat.create(**likely).choices[0]
        told = choice.logprobs.content
        self.assertEqual(b"".join(bytes(token.bytes) for token in told), b"Fine.")
        for token in told:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertGreaterEqual(token.top_logprobs[0].logprob, token.logprob)
            self.assertLessEqual(sum(math.exp(top.logprob) for top in token.top_logprobs), 1 + 1e-5)
        chunks = self.chat.create(**likely, stream=True)
        parts = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs]
        self.assertEqual([token.token for part in parts for token in part], [token.token for token in told])
        text = self.client.completions.create(model=MODEL, prompt="Once", logprobs=2, extra_body=said("Fine."))
        told = text.choices[0].logprobs
        self.assertEqual("".join(told.tokens), "Fine.")
        self.assertTrue(all(logprob <= 0 for logprob in told.token_logprobs))

    @makes_sense
    def test_the_right_word_is_the_likely_one(self):
        told = self.chat.create(**self.FIELDS, logprobs=True, top_logprobs=2).choices[0].logprobs.content
        right = next(token for token in told if token.token == " Paris")
        self.assertGreater(right.logprob, math.log(0.5))
        self.assertEqual((right.top_logprobs[0].token, right.top_logprobs[0].logprob), (" Paris", right.logprob))
        self.assertLess(right.top_logprobs[1].logprob, math.log(0.5))

    def test_a_text_is_continued(self):
        fields = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 5, "temperature": 0}
        whole = self.client.completions.create(**fields)
        streamed = self.client.completions.create(**fields, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in streamed), whole.choices[0].text)
        echoed = self.client.completions.create(**fields, echo=True)
        self.assertEqual(echoed.choices[0].text, fields["prompt"] + whole.choices[0].text)
        if IS_REAL:
            self.assertTrue(whole.choices[0].text.startswith(" Paris"), whole.choices[0].text)

    def test_what_cannot_be_done_is_refused_by_its_name(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.chat.create(model=MODEL, messages=ASKED, extra_body={"temprature": 1})
        self.assertEqual((refused.exception.param, refused.exception.code), ("temprature", "unknown_parameter"))
        with self.assertRaises(openai.BadRequestError) as refused:
            self.chat.create(model=MODEL, messages=LONG)
        self.assertEqual(refused.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.completions.create(model=MODEL, prompt="Once", suffix="x")
        self.assertEqual(refused.exception.param, "suffix")
        with self.assertRaises(openai.NotFoundError) as refused:
            self.chat.create(model="other", messages=ASKED, stream=True)
        self.assertEqual(refused.exception.code, "model_not_found")
        with self.assertRaises(openai.AuthenticationError):
            self.client.with_options(api_key="another-key-of-somebody").models.list()


class Responses(Sense):
    TOOLS = [{"type": "function", "name": "look", "parameters": PARAMETERS, "strict": False}]
    FIELDS = {"model": MODEL, "input": QUESTION, "temperature": 0, "reasoning": {"effort": "none"}, "store": False}

    def setUp(self):
        self.responses = openai.OpenAI(base_url=SERVER + "/v1", api_key=KEY, max_retries=0).responses

    def test_a_stream_says_what_the_whole_says(self):
        fields = {**self.FIELDS, "max_output_tokens": 5}
        whole = self.responses.create(**fields)
        self.assertEqual((whole.status, whole.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        events = list(self.responses.create(**fields, stream=True))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(text, whole.output_text)
        self.assertEqual((events[0].type, events[-1].type), ("response.created", "response.incomplete"))
        self.assertEqual(events[-1].response.usage.output_tokens, 5)
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        counted = self.responses.input_tokens.count(model=MODEL, input=QUESTION, reasoning={"effort": "none"})
        self.assertEqual(counted.input_tokens, whole.usage.input_tokens)

    @makes_sense
    def test_a_question_is_answered(self):
        response = self.responses.create(**self.FIELDS, instructions="You know all capitals.")
        self.assertEqual(response.status, "completed")
        self.assertIn("Paris", response.output_text)

    @can_call
    def test_a_call_goes_there_and_its_result_back(self):
        fields = {"model": MODEL, "tools": self.TOOLS, "store": False, "include": ["reasoning.encrypted_content"]}
        first = self.responses.create(**fields, input=QUESTION, extra_body=said(CALL))
        reasoning, message, call = first.output
        self.assertEqual((reasoning.type, message.content[0].text), ("reasoning", "Let me look."))
        self.assertEqual((call.name, json.loads(call.arguments)), ("look", ARGUMENTS))
        told = [item.model_dump(exclude_none=True) for item in first.output]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "A file."}
        conversation = [*ASKED, *told, result]
        n_tokens = self.responses.input_tokens.count(model=MODEL, tools=self.TOOLS, input=conversation).input_tokens
        with self.responses.stream(**fields, input=conversation, extra_body=said(SEEN)) as stream:
            stream.until_done()
            second = stream.get_final_response()
        self.assertEqual((second.status, second.output_text), ("completed", "It is a file."))
        self.assertGreaterEqual(second.usage.input_tokens_details.cached_tokens, first.usage.total_tokens - 1)
        # What the model wrote is counted in the tokens that its text gives, and read again in those that it wrote.
        self.assertLessEqual(abs(second.usage.input_tokens - n_tokens), first.usage.output_tokens)

    @can_call
    def test_a_call_is_streamed(self):
        fields = {"model": MODEL, "tools": self.TOOLS, "input": QUESTION, "store": False, "extra_body": said(CALL)}
        events = list(self.responses.create(**fields, stream=True))
        pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        self.assertGreater(len(pieces), 1)
        self.assertEqual(json.loads("".join(pieces)), ARGUMENTS)
        done = next(event for event in events if event.type == "response.function_call_arguments.done")
        self.assertEqual(json.loads(done.arguments), ARGUMENTS)
        self.assertEqual(events[-1].response.output[-1].name, "look")

    def test_an_answer_keeps_to_a_model_of_pydantic(self):
        self.is_right(self.responses.parse(**self.FIELDS, text_format=Answer).output_parsed)
        with self.responses.stream(**self.FIELDS, text_format=Answer) as stream:
            self.is_right(stream.get_final_response().output_parsed)

    def test_answers_tell_how_likely_their_tokens_were(self):
        fields = {**self.FIELDS, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
        response = self.responses.create(**fields, extra_body=said("Fine."))
        told = response.output[0].content[0].logprobs
        self.assertEqual(b"".join(bytes(token.bytes) for token in told), b"Fine.")
        self.assertTrue(all(len(token.top_logprobs) == 2 for token in told))

    def test_what_cannot_be_done_is_refused_by_its_name(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.responses.create(model=MODEL, input=QUESTION, previous_response_id="resp_1")
        self.assertEqual(refused.exception.param, "previous_response_id")
        with self.assertRaises(openai.BadRequestError) as refused:
            self.responses.create(model=MODEL, input=LONG, store=False)
        self.assertEqual(refused.exception.code, "context_length_exceeded")


class Anthropic(Sense):
    TOOLS = [{"name": "look", "description": "Looks.", "input_schema": PARAMETERS}]
    OFF = {"type": "disabled"}
    # The library has no field for the temperature any more.
    FIELDS = {"model": MODEL, "messages": ASKED, "thinking": OFF, "extra_body": {"temperature": 0}}

    def setUp(self):
        self.client = anthropic.Anthropic(base_url=SERVER, auth_token=KEY, max_retries=0)
        self.messages = self.client.messages

    def test_models_are_listed_and_found(self):
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)

    def test_a_stream_says_what_the_whole_says(self):
        whole = self.messages.create(**self.FIELDS, max_tokens=5)
        with self.messages.stream(**self.FIELDS, max_tokens=5) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()
        self.assertEqual((whole.stop_reason, whole.usage.output_tokens), ("max_tokens", 5))
        self.assertEqual((text, streamed.content[0].text), (whole.content[0].text, whole.content[0].text))
        counted = self.messages.count_tokens(model=MODEL, messages=ASKED, thinking=self.OFF)
        self.assertEqual(counted.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens)

    @makes_sense
    def test_a_question_is_answered(self):
        message = self.messages.create(**self.FIELDS, max_tokens=50)
        self.assertIn("Paris", message.content[0].text)
        self.assertEqual(message.stop_reason, "end_turn")

    @makes_sense
    def test_an_answer_that_was_begun_is_continued(self):
        begun = [*ASKED, {"role": "assistant", "content": "It is the city of"}]
        message = self.messages.create(**{**self.FIELDS, "messages": begun}, max_tokens=5)
        self.assertTrue(message.content[0].text.startswith(" Paris"), message.content[0].text)

    def test_an_answer_keeps_to_a_schema(self):
        schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
        form = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
        message = self.messages.create(**self.FIELDS, max_tokens=500, output_config=form)
        self.assertIsInstance(json.loads(message.content[0].text)["sure"], bool)

    def test_an_answer_keeps_to_a_model_of_pydantic(self):
        fields = {**self.FIELDS, "max_tokens": 500, "output_format": Answer}
        self.is_right(self.messages.parse(**fields).parsed_output)
        with self.messages.stream(**fields) as stream:
            self.is_right(stream.get_final_message().parsed_output)

    def test_a_text_of_ours_ends_an_answer(self):
        fields = {**self.FIELDS, "max_tokens": 50, "extra_body": said("abcdef")}
        message = self.messages.create(**fields, stop_sequences=["cd"])
        self.assertEqual((message.stop_reason, message.stop_sequence), ("stop_sequence", "cd"))
        self.assertEqual(message.content[0].text, "ab")

    @can_call
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

    @can_call
    def test_a_call_is_streamed(self):
        fields = {"model": MODEL, "messages": ASKED, "max_tokens": 1000, "tools": self.TOOLS, "extra_body": said(CALL)}
        with self.messages.stream(**fields) as stream:
            pieces = [event.partial_json for event in stream if event.type == "input_json"]
            message = stream.get_final_message()
        self.assertEqual(json.loads("".join(pieces)), ARGUMENTS)
        self.assertEqual((message.stop_reason, message.content[-1].input), ("tool_use", ARGUMENTS))

    def test_what_cannot_be_done_is_refused(self):
        with self.assertRaises(anthropic.BadRequestError) as refused:
            self.messages.create(model=MODEL, messages=ASKED, max_tokens=1, extra_body={"temprature": 1})
        self.assertEqual(refused.exception.body["error"]["message"], "temprature: there is no such field")
        with self.assertRaises(anthropic.BadRequestError) as refused:
            self.messages.create(model=MODEL, messages=LONG, max_tokens=1)
        self.assertIn("but the context holds 4096", refused.exception.body["error"]["message"])
        with self.assertRaises(anthropic.NotFoundError):
            self.messages.create(model="other", messages=ASKED, max_tokens=1)
        other = anthropic.Anthropic(base_url=SERVER, api_key="another-key-of-somebody", max_retries=0)
        with self.assertRaises(anthropic.AuthenticationError):
            other.messages.create(model=MODEL, messages=ASKED, max_tokens=1)


class Plain(unittest.TestCase):
    """What is asked without a library."""

    def test_a_text_becomes_tokens_and_a_text_again(self):
        ids = tokens(QUESTION)
        self.assertEqual(json.loads(ask("/detokenize", {"tokens": ids})), {"content": QUESTION})
        with self.assertRaises(urllib.error.HTTPError) as refused:
            ask("/detokenize", {"tokens": [1 << 30]})
        self.assertEqual(refused.exception.code, 400)
        refused.exception.close()

    def test_the_server_tells_how_it_is(self):
        self.assertEqual(json.loads(ask("/health")), {"status": "ok", "model": MODEL})
        self.assertTrue(ask("/metrics").endswith("# EOF\n"))


if __name__ == "__main__":
    unittest.main()
