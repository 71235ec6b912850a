defmodule ErlBridge.Bert.Connection do
  @moduledoc """
  A connection to a server of BERT-RPC, over TCP or TLS: opened, written to, waited for.

  The process that opens it gets its messages, one after each `await/1`: `{tag, socket, packet}`
  with the tag `:tcp` or `:ssl`, or that it is closed.
  """

  alias ErlBridge.{Bert, Error}

  @enforce_keys [:transport, :socket, :server]
  defstruct [:transport, :socket, :server]

  @type t :: %__MODULE__{transport: :gen_tcp | :ssl, socket: term, server: String.t()}

  # The largest packet in bytes that a server may send.
  @max_packet 1024 * 1024 * 1024

  # How long a server may read nothing of a request.
  @send_timeout 30_000

  @doc "Opens a connection; the options are those of `connect:`, validated."
  @spec open(map) :: {:ok, t} | {:error, Error.t()}
  def open(%{host: host, port: port, ssl: ssl, connect_timeout: timeout} = options) do
    transport = if ssl, do: :ssl, else: :gen_tcp
    {address, family} = address(host)

    socket_options =
      [
        :binary,
        active: false,
        nodelay: true,
        packet: 4,
        packet_size: @max_packet,
        send_timeout: @send_timeout,
        send_timeout_close: true
      ] ++ tls(ssl) ++ family

    server = "#{host}:#{port}"

    with {:ok, socket} <- transport.connect(address, port, socket_options, timeout),
         connection = %__MODULE__{transport: transport, socket: socket, server: server},
         :ok <- write(connection, Bert.greeting(options[:token])) do
      {:ok, connection}
    else
      {:error, reason} ->
        why = "cannot be made: #{explain(transport, reason)}"
        {:error, Error.disconnected(server, why, %{sent: false})}
    end
  end

  # An address of IPv6 wants a socket of that family.
  defp address(host) do
    case :inet.parse_address(String.to_charlist(host)) do
      {:ok, address} when tuple_size(address) == 8 -> {address, [:inet6]}
      {:ok, address} -> {address, []}
      {:error, :einval} -> {String.to_charlist(host), []}
    end
  end

  defp tls(false), do: []
  defp tls(true), do: tls([])

  defp tls(options) do
    options =
      Keyword.put_new_lazy(options, :customize_hostname_check, fn ->
        # So that a certificate for "*.example.org" is one for its hosts.
        [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
      end)

    if Enum.any?([:verify, :cacerts, :cacertfile], &Keyword.has_key?(options, &1)),
      do: Keyword.put_new(options, :verify, :verify_peer),
      else: [verify: :verify_peer, cacerts: :public_key.cacerts_get()] ++ options
  end

  @doc "Writes packets."
  @spec write(t, [iodata]) :: :ok | {:error, term}
  def write(%__MODULE__{} = connection, packets) do
    Enum.reduce_while(packets, :ok, fn packet, :ok ->
      case connection.transport.send(connection.socket, packet) do
        :ok -> {:cont, :ok}
        {:error, reason} -> {:halt, {:error, reason}}
      end
    end)
  end

  @doc "Has the next packet come as a message, or that there is none any more."
  @spec await(t) :: :ok
  def await(%__MODULE__{transport: :gen_tcp, socket: socket}), do: await(:inet, socket)
  def await(%__MODULE__{transport: :ssl, socket: socket}), do: await(:ssl, socket)

  # Of one that is closed a message says so already.
  defp await(module, socket) do
    _ok_or_closed = module.setopts(socket, active: :once)
    :ok
  end

  @doc "What the reason of an error means."
  @spec explain(t | :gen_tcp | :ssl, term) :: charlist
  def explain(%__MODULE__{transport: transport}, reason), do: explain(transport, reason)
  def explain(:gen_tcp, reason), do: :inet.format_error(reason)
  def explain(:ssl, reason), do: :ssl.format_error(reason)
end
