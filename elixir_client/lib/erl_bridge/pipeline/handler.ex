defmodule ErlBridge.Pipeline.Handler do
  @moduledoc """
  What does the steps of a type: a function of 2 arguments, or a module of this behaviour.

      defmodule MyApp.Insert do
        @behaviour ErlBridge.Pipeline.Handler

        @impl true
        def handle(%{"text" => text}, %{step: step}) do
          {:ok, %{"id" => MyApp.Repo.insert!(step.options["table"], text).id}}
        end
      end

  It is given the step's inputs, references resolved, and a context. It gives its outputs as a map
  with strings or atoms as keys, which is what later steps refer to. It runs in the process that executes the
  pipeline. What it raises, throws or exits with is the error of the step.
  """

  alias ErlBridge.Config.Step
  alias ErlBridge.Error

  @typedoc """
  The step, the results of the steps before, and for a step of DSPy's that failed the error that
  calls for this handler.
  """
  @type context :: %{step: Step.t(), results: map, error: Error.t() | nil}

  @type t :: (map, context -> {:ok, map} | {:error, term}) | module

  @doc "The outputs of a step."
  @callback handle(inputs :: map, context) :: {:ok, map} | {:error, term}

  @doc """
  Runs a handler; whatever becomes of it is a result.

      iex> alias ErlBridge.Pipeline.Handler
      iex> Handler.run(fn %{"n" => n}, _context -> {:ok, %{"n" => n + 1}} end, %{"n" => 1}, %{})
      {:ok, %{"n" => 2}}
      iex> Handler.run(fn _inputs, _context -> {:ok, %{sent: true}} end, %{}, %{})
      {:ok, %{"sent" => true}}
      iex> {:error, error} = Handler.run(fn _inputs, _context -> {:error, :full} end, %{}, %{})
      iex> Exception.message(error)
      "callback_error: the handler gave {:error, :full}"
  """
  @spec run(t, map, context) :: {:ok, map} | {:error, Error.t()}
  def run(handler, inputs, context) do
    handler |> answer(inputs, context) |> result()
  catch
    kind, reason ->
      {:error, Error.callback_failed(Exception.format(kind, reason, __STACKTRACE__))}
  end

  defp answer(handler, inputs, context) when is_function(handler), do: handler.(inputs, context)
  defp answer(handler, inputs, context), do: handler.handle(inputs, context)

  defp result({:ok, outputs}) when is_map(outputs) and not is_struct(outputs),
    do: {:ok, Map.new(outputs, fn {name, value} -> {to_string(name), value} end)}

  defp result({:error, %Error{} = error}), do: {:error, error}

  defp result({:error, _reason} = error),
    do: {:error, Error.callback_failed("the handler gave #{inspect(error, limit: 20)}")}

  defp result(other) do
    expected = "expected {:ok, outputs} with a map, or {:error, reason}, of the handler"
    {:error, Error.callback_failed("#{expected}, got: #{inspect(other, limit: 20)}")}
  end
end
