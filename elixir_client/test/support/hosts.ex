defmodule ErlBridge.Hosts do
  @moduledoc """
  Hosts for tests, on this machine: network namespaces, each with a cable to a switch that nothing else is on. So their addresses are the
  same in each run, and nothing of what listens there can be reached from here.

  To unplug a host takes its cable out of the switch: what is sent is lost from then on, in both directions, and nobody is told.
  """

  import ExUnit.Callbacks

  @typedoc "A host: its address, what a command that is to run there begins with, and where its cable is plugged in."
  @type t :: %{address: String.t(), command: [String.t()], switch: String.t(), socket: String.t()}

  @doc "Why there can be none here; `nil` if they can."
  @spec obstacle() :: String.t() | nil
  def obstacle do
    switch = name()

    result =
      with :ok <- build(switch, [host(switch, 1)]), do: ip(~w(netns exec #{name(switch, 1)} true))

    remove(switch, 1)

    with {:error, said} <- result,
         do: "no hosts can be made of network namespaces (root, iproute2, bridges): #{said}"
  end

  @doc "So many hosts, which are gone after this test, or all tests of a module."
  @spec start!(pos_integer) :: [t]
  def start!(count) do
    switch = name()
    hosts = for n <- 1..count, do: host(switch, n)
    on_exit(fn -> remove(switch, count) end)
    :ok = build(switch, hosts)
    hosts
  end

  @doc "Takes the cable of a host out of the switch."
  @spec unplug(t) :: :ok
  def unplug(host), do: :ok = ip(~w(-n #{host.switch} link set #{host.socket} nomaster))

  @doc "Puts it in again."
  @spec plug(t) :: :ok
  def plug(host), do: :ok = ip(~w(-n #{host.switch} link set #{host.socket} master switch))

  @doc "Hosts that do not reach each other any more, but all others: `:on` or `:off`."
  @spec part([t], :on | :off) :: :ok
  def part(hosts, state) do
    for host <- hosts,
        do:
          :ok =
            ip(~w(-n #{host.switch} link set #{host.socket} type bridge_slave isolated #{state}))

    :ok
  end

  defp host(switch, n) do
    %{
      address: "10.0.0.#{n}",
      command: ["ip", "netns", "exec", name(switch, n)],
      switch: switch,
      socket: "socket#{n}"
    }
  end

  defp build(switch, hosts) do
    cables =
      for %{address: address, command: [_ip, _netns, _exec, name], socket: socket} <- hosts do
        [
          ~w(netns add #{name}),
          ~w(-n #{switch} link add #{socket} type veth peer name cable netns #{name}),
          ~w(-n #{switch} link set #{socket} up master switch),
          ~w(-n #{name} addr add #{address}/24 dev cable),
          ~w(-n #{name} link set cable up),
          ~w(-n #{name} link set lo up)
        ]
      end

    [
      ~w(netns add #{switch}),
      ~w(-n #{switch} link add switch type bridge),
      ~w(-n #{switch} link set switch up)
    ]
    |> Enum.concat(Enum.concat(cables))
    |> Enum.find_value(:ok, fn words -> with :ok <- ip(words), do: nil end)
  end

  # What runs there keeps a network until it has ended.
  defp remove(switch, count) do
    for name <- [switch | Enum.map(1..count, &name(switch, &1))], do: ip(~w(netns del #{name}))
    :ok
  end

  defp ip(words) do
    case System.cmd("ip", words, stderr_to_stdout: true) do
      {_said, 0} -> :ok
      {said, _status} -> {:error, String.trim(said)}
    end
  rescue
    error in ErlangError -> {:error, "ip: #{inspect(error.original)}"}
  end

  defp name, do: "eb" <> (4 |> :crypto.strong_rand_bytes() |> Base.encode16(case: :lower))
  defp name(switch, n), do: "#{switch}-#{n}"
end
