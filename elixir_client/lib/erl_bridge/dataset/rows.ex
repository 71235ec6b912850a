defmodule ErlBridge.Dataset.Rows do
  @moduledoc """
  The rows of a DSPy request: in the request itself, or sent as a dataset before.

  A list goes with the request as long as it has no more than so many bytes. What has more, and what
  is lazy, becomes a dataset, and its id stands in the payload.

  It is done in two steps. First the payload gets the ids (`name/3`), which for a list its digest
  gives: that is all the bridge's cache must know, and where it has the answer no row is sent. What
  is not sent yet, is sent when it is needed (`put/3`).
  """

  alias ErlBridge.{Deadline, Error, Options, Route}
  alias ErlBridge.Dataset.{Batches, Transfer}

  @typedoc "Lists that are not sent yet, by their ids."
  @type unsent :: [{String.t(), [map]}]

  # Where there may be rows.
  @places [:training_data, :validation_data, :data]

  # How often the work goes to another node with its rows.
  @moves 3

  # Of the options of a request, those that the sending of its rows takes.
  @shared [:node, :on_event, :metadata, :trace, :max_retries, :backoff, :max_retry_after]

  @doc """
  Does the work of a request with its options. In a cluster, where rows are to become a dataset, the
  options name the node that gets both.

  When that node is gone and the request was not sent or may be repeated, it is done again on another
  one. Rows of a stream cannot be had again; then the error stays.
  """
  @spec place(Route.t(), map, map, (map -> result)) :: result
        when result: {:error, Error.t()} | term
  def place(%Route{cluster: cluster}, _payload, options, work)
      when cluster == nil or is_map_key(options, :node),
      do: work.(options)

  def place(route, payload, options, work) do
    kinds = for place <- @places, do: kind(payload[place], options.dataset_above)

    cond do
      :lazy in kinds -> place_at_best(route, options, work, 0)
      :list in kinds -> place_at_best(route, options, work, @moves)
      true -> work.(options)
    end
  end

  # The retries of the request itself have found that its node is not there.
  defp place_at_best(route, options, work, moves) do
    deadline = Deadline.after_timeout(options.timeout)

    with {:ok, placed} <- Route.pin(route, options) do
      case work.(placed) do
        {:error, %Error{type: :not_running, context: %{sent: false}}} when moves > 0 ->
          place_at_best(route, %{options | timeout: left(deadline)}, work, moves - 1)

        result ->
          result
      end
    end
  end

  @doc """
  The payload with ids in the place of rows that are many or lazy, what is not sent yet, and the
  options with the time that is left.
  """
  @spec name(GenServer.server(), map, map) :: {:ok, map, unsent, map} | {:error, Error.t()}
  def name(bridge, payload, options) do
    Enum.reduce_while(@places, {:ok, payload, [], options}, fn place,
                                                               {:ok, payload, unsent, options} ->
      case name_rows(bridge, payload[place], options) do
        :as_they_are ->
          {:cont, {:ok, payload, unsent, options}}

        {:ok, id, new, options} ->
          {:cont, {:ok, Map.put(payload, place, %{dataset: id}), new ++ unsent, options}}

        {:error, error} ->
          {:halt, {:error, error}}
      end
    end)
  end

  @doc "Sends what is not sent yet. Gives the options with the time that is left."
  @spec put(GenServer.server(), unsent, map) :: {:ok, map} | {:error, Error.t()}
  def put(bridge, unsent, options) do
    Enum.reduce_while(unsent, {:ok, options}, fn {id, rows}, {:ok, options} ->
      case transfer(bridge, rows, options, %{dataset_id: id}) do
        {:ok, _dataset, options} -> {:cont, {:ok, options}}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
  end

  defp name_rows(bridge, rows, options) do
    case kind(rows, options.dataset_above) do
      :as_they_are ->
        :as_they_are

      :list ->
        id = Batches.digest(rows, put_options(options).chunk_bytes)
        {:ok, id, [{id, rows}], options}

      :lazy ->
        with {:ok, dataset, options} <- transfer(bridge, rows, options, %{}),
             do: {:ok, dataset.dataset_id, [], options}
    end
  rescue
    error in Error -> {:error, error}
  end

  defp transfer(bridge, rows, options, own) do
    deadline = Deadline.after_timeout(options.timeout)

    with {:ok, dataset} <- Transfer.put(bridge, rows, Map.merge(put_options(options), own)),
         do: {:ok, dataset, %{options | timeout: left(deadline)}}
  end

  defp put_options(options) do
    Options.validate!([timeout: options.timeout], :dataset)
    |> Map.merge(Map.take(options, @shared))
  end

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(Deadline.remaining(deadline), 1)

  defp kind(rows, limit) when is_list(rows),
    do: if(above?(rows, limit), do: :list, else: :as_they_are)

  defp kind(%{__struct__: _type} = rows, _limit), do: lazy(rows)
  defp kind(rows, _limit) when is_function(rows), do: lazy(rows)
  # None, the id of a dataset, or wrong, which is the server's to say.
  defp kind(_other, _limit), do: :as_they_are

  defp lazy(rows), do: if(Enumerable.impl_for(rows), do: :lazy, else: :as_they_are)

  defp above?(_rows, :infinity), do: false

  defp above?(rows, limit) do
    Enum.reduce_while(rows, 0, fn row, bytes ->
      bytes = bytes + :erlang.external_size(row)
      if bytes > limit, do: {:halt, :above}, else: {:cont, bytes}
    end) == :above
  end
end
