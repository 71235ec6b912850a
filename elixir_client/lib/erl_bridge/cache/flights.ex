defmodule ErlBridge.Cache.Flights do
  @moduledoc """
  The computations under way in a cache, as a value: for each key one member that computes, and
  those that wait for its result.

  When the computing member leaves, the one that has waited longest takes its place. A flight may
  be detached from its key, when the key is deleted meanwhile: it goes on for its members, but its
  result is not kept, and who comes then starts another.

      iex> alias ErlBridge.Cache.Flights
      iex> [one, two] = for _n <- 1..2, do: %{ref: make_ref(), pid: self()}
      iex> {:compute, flights} = Flights.join(Flights.new(), "key", one)
      iex> {:wait, flights} = Flights.join(flights, "key", two)
      iex> {^one, ^two, flights} = Flights.leave(flights, one.ref)
      iex> {"key", true, [^two], flights} = Flights.finish(flights, two.ref)
      iex> flights == Flights.new()
      true
  """

  defstruct flights: %{}, keys: %{}, members: %{}

  @typedoc "Whoever takes part: a reference of its own, its process, and whatever else the owner keeps."
  @type member :: %{required(:ref) => reference, required(:pid) => pid, optional(atom) => term}

  # A flight is named by the reference of the member that started it.
  @opaque t :: %__MODULE__{
            flights: %{optional(reference) => %{key: binary, members: [member, ...]}},
            keys: %{optional(binary) => reference},
            members: %{optional(reference) => reference}
          }

  @spec new() :: t
  def new, do: %__MODULE__{}

  @doc "The process that computes the value of a key; `nil` when none does."
  @spec leader(t, binary) :: pid | nil
  def leader(%__MODULE__{} = flights, key) do
    case flights.keys do
      %{^key => id} -> hd(flights.flights[id].members).pid
      %{} -> nil
    end
  end

  @doc "Takes a member in: it is to compute, or to wait."
  @spec join(t, binary, member) :: {:compute | :wait, t}
  def join(%__MODULE__{keys: keys} = flights, key, member) when is_map_key(keys, key) do
    id = keys[key]
    flight = Map.update!(flights.flights[id], :members, &(&1 ++ [member]))
    {:wait, flights |> put_flight(id, flight) |> put_member(member, id)}
  end

  def join(%__MODULE__{} = flights, key, %{ref: id} = member) do
    flights = %{flights | keys: Map.put(flights.keys, key, id)}

    {:compute,
     flights |> put_flight(id, %{key: key, members: [member]}) |> put_member(member, id)}
  end

  @doc """
  The computing member has a result: gives the key, whether the result may be kept, and all
  members, the computing one first; `nil` for one that has left.
  """
  @spec finish(t, reference) :: {binary, boolean, [member, ...], t} | nil
  def finish(%__MODULE__{members: members} = flights, ref) when is_map_key(members, ref) do
    id = members[ref]
    %{key: key, members: members} = flights.flights[id]
    {key, flights.keys[key] == id, members, drop_flight(flights, id)}
  end

  def finish(%__MODULE__{}, _ref), do: nil

  @doc """
  A member is gone: gives it back (`nil` if it had left before), and the member that is to compute
  now, if it was the computing one and others wait.
  """
  @spec leave(t, reference) :: {member | nil, heir :: member | nil, t}
  def leave(%__MODULE__{members: members} = flights, ref) when is_map_key(members, ref) do
    id = members[ref]
    %{members: members} = flight = flights.flights[id]
    {[member], others} = Enum.split_with(members, &(&1.ref == ref))

    case others do
      [] ->
        {member, nil, drop_flight(flights, id)}

      [first | _others] ->
        flights = %{flights | members: Map.delete(flights.members, ref)}
        heir = if hd(members) == member, do: first
        {member, heir, put_flight(flights, id, %{flight | members: others})}
    end
  end

  def leave(%__MODULE__{} = flights, _ref), do: {nil, nil, flights}

  @doc "What is under way for this key will not be kept."
  @spec detach(t, binary) :: t
  def detach(%__MODULE__{} = flights, key), do: %{flights | keys: Map.delete(flights.keys, key)}

  @doc "Nothing that is under way will be kept."
  @spec detach_all(t) :: t
  def detach_all(%__MODULE__{} = flights), do: %{flights | keys: %{}}

  defp put_flight(flights, id, flight),
    do: %{flights | flights: Map.put(flights.flights, id, flight)}

  defp put_member(flights, %{ref: ref}, id),
    do: %{flights | members: Map.put(flights.members, ref, id)}

  defp drop_flight(flights, id) do
    {%{key: key, members: members}, others} = Map.pop!(flights.flights, id)

    %{
      flights
      | flights: others,
        keys: if(flights.keys[key] == id, do: Map.delete(flights.keys, key), else: flights.keys),
        members: Map.drop(flights.members, Enum.map(members, & &1.ref))
    }
  end
end
