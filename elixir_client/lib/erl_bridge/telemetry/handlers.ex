defmodule ErlBridge.Telemetry.Handlers do
  @moduledoc """
  The handlers of a node that has no `:telemetry`: its functions `attach_many/4`, `detach/1` and
  `execute/3`, with the same arguments and results.

  The table is one persistent term, so an event that nobody listens to costs a lookup and no
  process. Attaching is rare and may be slow.

      iex> alias ErlBridge.Telemetry.Handlers
      iex> Handlers.attach_many(:doctest, [[:doctest, :event]], fn _event, %{n: n}, _metadata, pid -> send(pid, n) end, self())
      :ok
      iex> Handlers.execute([:doctest, :event], %{n: 7}, %{})
      iex> receive do n -> n end
      7
      iex> Handlers.detach(:doctest)
      :ok
  """

  require Logger

  @type handler :: {id :: term, (... -> any), config :: term}

  @doc "Calls `fun` with each of these events from now on. An id is for one handler."
  @spec attach_many(term, [[atom]], (... -> any), term) :: :ok | {:error, :already_exists}
  def attach_many(id, events, fun, config) when is_function(fun, 4) do
    update(fn table ->
      if attached?(table, id),
        do: {{:error, :already_exists}, table},
        else: {:ok, Enum.reduce(Enum.uniq(events), table, &add(&2, &1, {id, fun, config}))}
    end)
  end

  @doc "Takes the handler off all its events."
  @spec detach(term) :: :ok | {:error, :not_found}
  def detach(id) do
    update(fn table ->
      if attached?(table, id), do: {:ok, remove(table, id)}, else: {{:error, :not_found}, table}
    end)
  end

  @doc "The handlers of an event."
  @spec list_for_event([atom]) :: [handler]
  def list_for_event(event) do
    case table() do
      %{^event => handlers} -> handlers
      _none -> []
    end
  end

  @doc "Whether there is any handler, of whatever event."
  @spec any?() :: boolean
  def any?, do: table() != %{}

  @doc "Calls the handlers of an event, in this process. One that fails is detached, and an error logged."
  @spec execute([atom], map, map) :: :ok
  def execute(event, measurements, metadata),
    do: Enum.each(list_for_event(event), &call(&1, event, measurements, metadata))

  defp call({id, fun, config}, event, measurements, metadata) do
    fun.(event, measurements, metadata, config)
  catch
    kind, reason ->
      detach(id)

      Logger.error(
        "handler #{inspect(id)} of #{inspect(event)} has failed and was detached: " <>
          Exception.format(kind, reason, __STACKTRACE__)
      )
  end

  defp table, do: :persistent_term.get(__MODULE__, %{})

  # One at a time on this node, or two that attach at once would lose one.
  defp update(change) do
    :global.trans(
      {__MODULE__, self()},
      fn ->
        {result, table} = change.(table())
        if result == :ok, do: :persistent_term.put(__MODULE__, table)
        result
      end,
      [node()]
    )
  end

  defp attached?(table, id) do
    Enum.any?(table, fn {_event, handlers} -> List.keymember?(handlers, id, 0) end)
  end

  defp add(table, event, handler), do: Map.update(table, event, [handler], &(&1 ++ [handler]))

  defp remove(table, id) do
    for {event, handlers} <- table,
        left = List.keydelete(handlers, id, 0),
        left != [],
        into: %{},
        do: {event, left}
  end
end
