"""OpenAI's own client against the server: python client.py BASE_URL"""
import sys
import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="secret", max_retries=0)
assert [model.id for model in client.models.list()] == ["tiny"]
assert client.models.retrieve("tiny").owned_by == "caravan"
ask = dict(model="tiny", max_tokens=12, temperature=0)

whole = client.completions.create(prompt="the quick", **ask)
pieces = [chunk.choices[0].text for chunk in client.completions.create(prompt="the quick", stream=True, **ask)]
assert "".join(pieces) == whole.choices[0].text and len(pieces) > 2, (pieces, whole)
assert whole.usage.completion_tokens == 12 and whole.choices[0].finish_reason == "length"

turns = [{"role": "user", "content": "the lazy dog"}]
chat = client.chat.completions.create(messages=turns, **ask)
assert chat.choices[0].message.role == "assistant"
stream = client.chat.completions.create(messages=turns, stream=True, stream_options={"include_usage": True}, **ask)
chunks = list(stream)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == chat.choices[0].message.content
assert chunks[-1].usage.total_tokens == chat.usage.total_tokens

for wrong, kind in [(dict(model="other"), openai.NotFoundError), (dict(temperature=9), openai.BadRequestError)]:
    try:
        client.completions.create(prompt="x", **{**ask, **wrong})
        raise AssertionError(f"{wrong} was taken")
    except kind:
        pass
try:
    openai.OpenAI(base_url=sys.argv[1], api_key="wrong", max_retries=0).models.list()
    raise AssertionError("a wrong key was taken")
except openai.AuthenticationError:
    pass
print("all good")
