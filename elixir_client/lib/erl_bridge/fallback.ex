defmodule ErlBridge.Fallback do
  @moduledoc """
  What answers a request when Python cannot: a function of the error, or a module of this
  behaviour, which also gets the request.

      defmodule MyApp.CachedAnswer do
        @behaviour ErlBridge.Fallback

        @impl true
        def fallback(error, %{request_type: :predict, payload: payload}) do
          with :error <- MyApp.Cache.fetch(payload.inputs), do: {:error, error}
        end
      end

  What it returns is the result of the request:

    * `{:ok, value}` and `{:error, %ErlBridge.Error{}}` as they are
    * any other value as `{:ok, value}`

  A fallback that raises, throws or exits, or returns another `{:error, reason}`, has failed: the
  request's result is the error that called for the fallback, and `:fallback_error` in its context
  says what became of the fallback.

  It runs in the calling process, and nothing ends it at the request's deadline. So it should be
  quick: a cached answer, a default, a simpler rule.

      iex> alias ErlBridge.{Error, Fallback}
      iex> busy = %Error{type: :overloaded, message: "busy", strategy: :retry}
      iex> Fallback.run(fn _error -> %{answer: "later"} end, busy, %{})
      {:ok, %{answer: "later"}}
      iex> Fallback.run(fn error -> {:error, error} end, busy, %{})
      {:error, busy}
      iex> {:error, error} = Fallback.run(fn _error -> {:error, :no_cache} end, busy, %{})
      iex> {error.type, error.context.fallback_error}
      {:overloaded, "expected {:ok, value}, {:error, %ErlBridge.Error{}} or a value, got: {:error, :no_cache}"}
  """

  alias ErlBridge.Error

  @typedoc "The request that failed."
  @type context :: %{
          optional(:request_type) => atom,
          optional(:payload) => map,
          optional(atom) => term
        }

  @type t :: (Error.t() -> term) | module

  @doc "The answer in place of Python's, given the error and the request."
  @callback fallback(Error.t(), context) :: {:ok, term} | {:error, Error.t()} | term

  @doc "Runs a fallback; whatever becomes of it is a result."
  @spec run(t, Error.t(), context) :: {:ok, term} | {:error, Error.t()}
  def run(fallback, %Error{} = error, context) do
    fallback |> answer(error, context) |> result(error)
  catch
    kind, reason -> failed(error, Exception.format(kind, reason, __STACKTRACE__))
  end

  defp answer(fallback, error, _context) when is_function(fallback, 1), do: fallback.(error)
  defp answer(fallback, error, context), do: fallback.fallback(error, context)

  defp result({:ok, value}, _error), do: {:ok, value}
  defp result({:error, %Error{} = own}, _error), do: {:error, own}

  defp result({:error, _reason} = other, error) do
    failed(
      error,
      "expected {:ok, value}, {:error, %ErlBridge.Error{}} or a value, got: " <>
        inspect(other, limit: 20)
    )
  end

  defp result(value, _error), do: {:ok, value}

  defp failed(error, why),
    do: {:error, %{error | context: Map.put(error.context, :fallback_error, why)}}
end
