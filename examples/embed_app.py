"""A handler in Python, called from Elixir: words to vectors.

python -m erl_bridge port --app embed_app:app

{:ok, bridge} = ErlBridge.start_link(app: "embed_app:app", cd: "examples")
{:ok, %{"vectors" => vectors}} = ErlBridge.call(bridge, :embed, %{texts: ["hello", "help"]})
"""

import zlib

import msgspec

from erl_bridge import Bridge, Context

app = Bridge()


class Texts(msgspec.Struct):
    texts: list[str]
    dimensions: int = 8


@app.handler("embed", schema=Texts)
def embed(payload: Texts, context: Context) -> dict[str, object]:
    """Count each text's letter trigrams into buckets: a small embedding that needs no model."""
    vectors = []
    for done, text in enumerate(payload.texts, start=1):
        vector = [0.0] * payload.dimensions
        for i in range(len(text) - 2):
            vector[zlib.crc32(text[i : i + 3].encode()) % payload.dimensions] += 1.0
        vectors.append(vector)
        context.progress(done=done, total=len(payload.texts))
    return {"vectors": vectors}
