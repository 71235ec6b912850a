defmodule ErlBridge.Optimization do
  @moduledoc """
  An optimization that is done once: with a cache, its result is taken from there the next time.
  """

  alias ErlBridge.{Cache, Error, Installation, Payload}

  # What the result depends on, of the options of `ErlBridge.optimize/4`.
  @parts [:module, :optimizer, :validation_data, :metric, :config, :lm, :callbacks]

  @typedoc "A running cache and how long it keeps the result, or `nil` for none."
  @type cache :: {Cache.cache(), timeout} | nil

  @doc """
  What `ErlBridge.optimize/4` gives, or gave before for the same signature, rows, optimizer, metric
  and language model. Of callbacks the names tell two requests apart, see `ErlBridge.Cache.key/1`.
  """
  @spec run(ErlBridge.bridge(), Payload.signature(), Payload.rows(), keyword, cache) ::
          {:ok, map} | {:error, Error.t()}
  def run(bridge, signature, rows, options, nil),
    do: ErlBridge.optimize(bridge, signature, rows, options)

  def run(bridge, signature, rows, options, {cache, ttl}) do
    compute = fn -> run(bridge, signature, rows, options, nil) end
    Cache.fetch(cache, key(signature, rows, options), compute, ttl: ttl)
  end

  defp key(signature, rows, options) do
    options
    |> Keyword.take(@parts)
    |> Map.new()
    |> Map.merge(%{signature: signature, rows: rows, version: Installation.version()})
    |> Cache.key()
  end
end
