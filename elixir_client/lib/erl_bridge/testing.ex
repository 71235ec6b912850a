defmodule ErlBridge.Testing do
  @moduledoc """
  A bridge without Python, for the tests of what uses one: your functions answer its requests.

  Everything else is the real bridge: options are validated, and terms are encoded by the caller and
  decoded here and back. Each test has a bridge of its own, which makes `async: true` safe. (That
  Python has no use for a function, say, is not found out: its codec is not asked.)

      iex> alias ErlBridge.Testing
      iex> {:ok, bridge} = Testing.start_bridge(%{predict: fn _payload, _context -> {:ok, %{answer: "4"}} end})
      iex> ErlBridge.predict(bridge, "question -> answer", %{question: "What is 2+2?"})
      {:ok, %{answer: "4"}}
      iex> [%{request_type: :predict, payload: %{inputs: inputs}}] = Testing.requests(bridge)
      iex> inputs
      %{question: "What is 2+2?"}

  In a test, `start_supervised!({ErlBridge.Testing, handlers})` gives a bridge that ends with it. Code
  that asks a bridge by its name finds one of that name: `{ErlBridge.Testing, {handlers, name:
  MyApp.Bridge}}`. Of a name there is one at a time, so such tests are not `async: true`.

  ## Handlers

  A map of functions by request type, or one function for all types that gets the type first. Each
  gets the payload and a context, in a process of its own, and returns `{:ok, result}`, `{:error,
  %ErlBridge.Error{}}` or `:later`; what it raises is a `:python_runtime_error`. A type without a
  handler is an `:unknown_request`. `:ping` and `:health_check` are answered without one.

  Datasets work as with Python: `ErlBridge.put_dataset/3` sends rows here, where they are kept as long
  as the bridge runs, and a handler finds the rows themselves where the payload names a dataset. A map
  with handlers for `:dataset_begin` and its like takes their place.

  The context holds `metadata`, `event` (a function that sends a map as an event), `call` (a function
  of a name and a list of arguments that calls one of the request's callbacks) and `ref`, for `reply/3`:

      handler = fn _payload, context ->
        send(test, {:asked, context.ref})
        :later
      end

      # in the test, when it is time:
      ErlBridge.Testing.reply(bridge, ref, {:ok, "done"})

  ## A language model without a key

  With a real bridge, `model/1` takes the place of the language model, so that a test of a program, an
  agent or a pipeline runs all of it but the model.
  """

  use Supervisor

  alias ErlBridge.{Error, Route}
  alias ErlBridge.Testing.{Model, Worker}

  @typedoc "What a handler may return."
  @type answer :: {:ok, term} | {:error, Error.t()} | :later

  @typedoc "What a handler knows of its request besides the payload."
  @type context :: %{
          ref: reference,
          metadata: map,
          event: (map -> :ok),
          call: (atom | String.t(), [term] -> {:ok, term} | {:error, String.t()})
        }

  @type handlers ::
          %{optional(atom) => (map, context -> answer)} | (atom, map, context -> answer)

  @doc """
  Starts a bridge that these handlers answer for, linked to the calling process.

  It is registered as `:name`, if there is one.
  """
  @spec start_bridge(handlers, name: Supervisor.name()) :: Supervisor.on_start()
  def start_bridge(handlers, options \\ []) when is_map(handlers) or is_function(handlers, 3),
    do: Supervisor.start_link(__MODULE__, handlers, Keyword.validate!(options, [:name]))

  @doc false
  def start_link({handlers, options}), do: start_bridge(handlers, options)
  def start_link(handlers), do: start_bridge(handlers)

  @doc "The requests that the bridge has got, in their order: `%{request_type:, payload:, metadata:}`."
  @spec requests(ErlBridge.bridge()) :: [map]
  def requests(bridge), do: GenServer.call(worker(bridge), :requests)

  @doc """
  Answers a request whose handler returned `:later`; false when nobody waits for it any more.
  """
  @spec reply(ErlBridge.bridge(), reference, {:ok, term} | {:error, Error.t()}) :: boolean
  def reply(bridge, ref, answer), do: GenServer.call(worker(bridge), {:reply, ref, answer})

  @doc """
  A language model that answers by a function, for the `:lm` of a real bridge.

  The function gets the inputs of the predictor that asks, as texts by name, and if it has two
  arguments the names of the outputs that are asked for. It returns the outputs: texts, atoms, numbers,
  dates, lists and maps of them. With `stream: true` they come word by word.

      model = ErlBridge.Testing.model(fn %{"question" => "What is 2+2?"} -> %{answer: 4} end)
      {:ok, %{answer: 4}} = ErlBridge.predict(bridge, signature, %{question: "What is 2+2?"}, lm: model)
  """
  @spec model(
          (Model.inputs() -> Model.outputs())
          | (Model.inputs(), [String.t()] -> Model.outputs())
        ) ::
          (map -> String.t() | Enumerable.t())
  def model(fun) when is_function(fun, 1) or is_function(fun, 2), do: Model.new(fun)

  @impl true
  def init(handlers) do
    Supervisor.init([{Worker, {self(), handlers}}], strategy: :one_for_all)
  end

  defp worker(bridge) do
    {:ok, %Route{pool: worker}} = Route.lookup(bridge)
    worker
  end
end
