# The same over a Port to a Python of our own, and over BERT-RPC to a server.
for transport <- [:port, :tcp] do
  defmodule Module.concat(ErlBridge.LiveCallbackTest, Macro.camelize("over_#{transport}")) do
    @moduledoc "Functions of Elixir called from Python while it works on a request."
    use ExUnit.Case, async: true

    alias ErlBridge.{Error, Live}

    @bridge if transport == :port, do: Live.shared(), else: ErlBridge.LiveCallbackTest.TcpBridge

    if transport == :tcp do
      setup_all do
        server = Live.tcp_server!()
        start_supervised!({ErlBridge, name: @bridge, connect: [port: server.tcp_port]})
        server
      end

      defp start!(context, options),
        do: start_supervised!({ErlBridge, [{:connect, [port: context.tcp_port]} | options]})
    else
      defp start!(_context, options), do: Live.start!(options)
    end

    test "the arguments come here and the result goes there, as native terms" do
      callbacks = %{merge: fn map, {:and, more} -> Map.put(map, "more", more) end}

      assert {:ok, %{:a => 1, "more" => ~D[2024-01-01]}} =
               ask(:merge, [%{a: 1}, {:and, ~D[2024-01-01]}], callbacks)
    end

    test "several run at once" do
      items = Enum.to_list(1..5)
      test = self()

      # Each call waits until all five are there.
      callbacks = %{
        meet: fn n ->
          send(test, {:here, self()})
          receive do: (:go -> n * n)
        end
      }

      task =
        Task.async(fn ->
          ErlBridge.call(@bridge, :ask_all, %{"name" => "meet", "items" => items},
            callbacks: callbacks
          )
        end)

      pids = for _n <- items, do: assert_receive({:here, _pid}) |> elem(1)
      assert length(Enum.uniq(pids)) == 5
      Enum.each(pids, &send(&1, :go))

      assert Task.await(task, :infinity) == {:ok, [1, 4, 9, 16, 25]}
    end

    test "they know who asked" do
      test = self()
      assert {:ok, true} = ask(:mine, [], %{mine: fn -> Process.get(:"$callers") == [test] end})
    end

    test "they may make requests of their own" do
      callbacks = %{nest: fn n -> ErlBridge.call!(@bridge, :echo, %{"n" => n}) end}
      assert {:ok, %{"n" => 7}} = ask(:nest, [7], callbacks)
    end

    # Python has a thread for each of 32 handlers, and these hold theirs while their functions ask.
    test "they have room for these requests, however many wait for them" do
      count = fn n -> ErlBridge.call(@bridge, :count, %{"to" => n}) end

      results =
        1..100
        |> Enum.map(fn n -> Task.async(fn -> ask(:nest, [n], %{nest: count}) end) end)
        |> Task.await_many(:infinity)

      assert Enum.frequencies_by(results, &elem(&1, 0)) == %{ok: 100}
    end

    @failures [
      raise: {quote(do: raise("broken")), "** (RuntimeError) broken"},
      throw: {quote(do: throw(:ball)), "** (throw) :ball"},
      exit: {quote(do: exit(:gone)), "** (exit) :gone"},
      kill: {quote(do: Process.exit(self(), :kill)), "the process of the callback ended: killed"},
      link: {quote(do: Task.await(Task.async(fn -> exit({:shutdown, :cut}) end))), ":cut"}
    ]

    for {name, {body, message}} <- @failures do
      test "a function that fails is an error for Python and nobody else: #{name}" do
        worker = Process.whereis(@bridge)

        assert {:error, %Error{type: :callback_error} = error} =
                 ask(:fail, [], %{fail: fn -> unquote(body) end})

        assert Exception.message(error) =~ unquote(message)
        assert Process.whereis(@bridge) == worker
      end
    end

    test "a function that is not there is one, too" do
      assert {:error, %Error{type: :callback_error} = error} = ask(:missing, [], %{})
      assert Exception.message(error) =~ "there is no callback named missing"
    end

    test "a result that is larger than a frame is an error for Python", context do
      bridge = start!(context, max_frame: 10_000)
      large = %{"name" => "large", "args" => []}
      callbacks = %{large: fn -> :binary.copy("x", 10_000) end}

      assert {:error, %Error{type: :callback_error} = error} =
               ErlBridge.call(bridge, :ask, large, callbacks: callbacks)

      assert Exception.message(error) =~ "more than the 10000 that a frame"
    end

    test "what still runs when its request is over is ended" do
      test = self()

      callbacks = %{
        linger: fn ->
          send(test, {:lingers, self()})
          Process.sleep(:infinity)
        end
      }

      task =
        Task.async(fn ->
          ErlBridge.call(@bridge, :ask, %{"name" => "linger", "args" => []},
            callbacks: callbacks,
            id: :lingering
          )
        end)

      assert_receive {:lingers, pid}
      monitor = Process.monitor(pid)

      assert {:ok, true} = ErlBridge.cancel(@bridge, :lingering)
      assert {:error, %Error{type: :cancelled}} = Task.await(task, :infinity)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}
    end

    defp ask(name, args, callbacks),
      do:
        ErlBridge.call(@bridge, :ask, %{"name" => to_string(name), "args" => args},
          callbacks: callbacks
        )
  end
end
