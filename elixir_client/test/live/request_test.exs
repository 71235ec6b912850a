# The same requests over a Port to a Python of our own, and over BERT-RPC to a server.
for transport <- [:port, :tcp] do
  defmodule Module.concat(ErlBridge.RequestTest, Macro.camelize("over_#{transport}")) do
    @moduledoc "Requests and replies of the real Python: terms, order, events, cancelling, deadlines."
    use ExUnit.Case, async: true

    alias ErlBridge.{Error, Live, OsProcess}

    @bridge if transport == :port, do: Live.shared(), else: ErlBridge.RequestTest.TcpBridge

    if transport == :tcp do
      setup_all do
        server = Live.tcp_server!()
        start_supervised!({ErlBridge, name: @bridge, connect: [port: server.tcp_port]})
        server
      end
    end

    # A bridge of a test alone, to a Python that nothing else uses.
    defp start!(options), do: elem(start_with_os_pid!(options), 0)

    if transport == :port do
      defp start_with_os_pid!(options) do
        bridge = Live.start!(options)
        {bridge, Live.os_pid(bridge)}
      end
    else
      defp start_with_os_pid!(options) do
        server = Live.tcp_server!()
        connect = Keyword.merge([connect: [port: server.tcp_port]], options)
        {start_supervised!({ErlBridge, connect}, restart: :temporary), server.tcp_os_pid}
      end
    end

    describe "terms come back as they went" do
      big = Integer.pow(2, 200)

      small_to_big =
        for shift <- [7, 8, 15, 16, 31, 32, 59, 60, 63, 64], do: Bitwise.bsl(1, shift)

      @terms [
        integers: [0, 255, 256, -1, big, -big] ++ small_to_big ++ Enum.map(small_to_big, &(-&1)),
        floats: [0.0, -0.5, 1.0e308, 5.0e-324],
        constants: [true, false, nil],
        atoms: [:a, :"with space", :ünïcode, Elixir.Enum],
        binaries: ["", "text", "größe ✓", <<255, 0, 254>>, :binary.copy("x", 100_000)],
        bitstrings: [<<1::3>>, <<"ab", 5::7>>],
        lists: [[], [1], [1, [2, [3]]], ~c"charlist", Enum.to_list(1..1000)],
        improper_lists: [[1 | 2], [1, 2 | "rest"]],
        tuples: [{}, {1}, {:ok, {1, "two", [3]}}, List.to_tuple(Enum.to_list(1..300))],
        maps: [%{}, %{:a => 1, "a" => 2, 1 => 3, [1] => 4, {:t} => 5, nil => 6, %{} => 7}],
        merging_keys: [%{1 => :one, 1.0 => :float, true => :atom}],
        dates: [
          ~D[2024-02-29],
          ~T[12:30:00.123456],
          ~N[2024-02-29 12:30:00],
          ~U[2024-02-29 12:30:00.123Z]
        ],
        sets_and_ranges: [MapSet.new([1, :two, "three"]), 1..10, 10..1//-3],
        structs: [%URI{host: "example.org"}, %Version{major: 1, minor: 2, patch: 3}],
        exports: [&Enum.map/2]
      ]

      # On the wire BERT has fewer kinds of terms than the BEAM.
      @terms Keyword.drop(@terms, if(transport == :tcp, do: [:bitstrings, :exports], else: []))

      for {kind, terms} <- @terms do
        test "#{kind}" do
          for term <- unquote(Macro.escape(terms)), do: assert(ping(term) === term)
        end
      end

      if transport == :port do
        test "pids, ports, references and functions" do
          captured = 1
          port = hd(Port.list())

          for term <- [self(), make_ref(), port, fn x -> x + captured end],
              do: assert(ping(term) === term)
        end
      else
        test "but for those that BERT has no form for, which are an error" do
          for term <- [self(), make_ref(), &Enum.map/2, <<1::3>>] do
            assert {:error, %Error{type: :serialization_error} = error} =
                     ErlBridge.ping(@bridge, %{term: [term]})

            assert Exception.message(error) =~ "result.term[0]"
          end
        end
      end

      test "-0.0 keeps its sign" do
        negative_zero = -1 * 0.0
        assert <<1::1, _rest::63>> = <<ping(negative_zero)::float>>
      end

      test "through a handler of the application, too" do
        for {_kind, terms} <- @terms, term <- terms do
          assert ErlBridge.call!(@bridge, :echo, %{"term" => term}) === %{"term" => term}
        end
      end

      defp ping(term), do: ErlBridge.ping!(@bridge, %{term: term}).term
    end

    describe "many at once" do
      test "each caller gets its own answer" do
        1..200
        |> Task.async_stream(
          fn n -> {n, for(m <- 1..5, do: ErlBridge.call!(@bridge, :echo, %{"n" => {n, m}}))} end,
          max_concurrency: 50,
          timeout: :infinity
        )
        |> Enum.each(fn {:ok, {n, answers}} ->
          assert answers == for(m <- 1..5, do: %{"n" => {n, m}})
        end)
      end

      test "one caller may have many under way and await them in any order" do
        requests =
          for n <- 1..20 do
            {:ok, request} = ErlBridge.async(@bridge, :echo, %{"n" => n})
            {n, request}
          end

        for {n, request} <- Enum.reverse(requests) do
          assert ErlBridge.await(request) == {:ok, %{"n" => n}}
        end

        assert Live.mailbox() == []
      end

      test "a request is awaited once, and by its own process" do
        {:ok, request} = ErlBridge.async(@bridge, :echo, %{"n" => 1}, timeout: :infinity)

        elsewhere =
          Task.async(fn -> assert_raise(ArgumentError, fn -> ErlBridge.await(request) end) end)

        assert Exception.message(Task.await(elsewhere, :infinity)) =~
                 "by the process that started it"

        assert ErlBridge.await(request) == {:ok, %{"n" => 1}}
        assert_raise ArgumentError, ~r/is awaited once/, fn -> ErlBridge.await(request) end
        assert_raise ArgumentError, ~r/is awaited once/, fn -> ErlBridge.await!(request) end
      end

      test "a request that takes long holds up no other" do
        waiting = Live.wait(@bridge, id: :long)

        assert {:ok, :healthy} = ErlBridge.health_check(@bridge)
        assert ErlBridge.ping!(@bridge, %{n: 1}) == %{n: 1}
        assert {:ok, true} = ErlBridge.cancel(@bridge, :long)
        assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
      end
    end

    describe "events" do
      test "come in order, in the calling process, and all before the reply" do
        test = self()

        on_event = fn event ->
          assert self() == test
          send(test, event)
        end

        assert {:ok, "counted"} =
                 ErlBridge.call(@bridge, :count, %{"to" => 20}, on_event: on_event)

        events = Live.mailbox()
        assert for(%{"n" => n, kind: :progress} <- events, do: n) == Enum.to_list(0..19)
        assert List.last(events) == %{kind: :stream, text: "last"}
      end

      test "nobody wants are not sent" do
        assert {:ok, "counted"} = ErlBridge.call(@bridge, :count, %{"to" => 20})
        assert Live.mailbox() == []
      end

      test "whose function raises end the request, and leave nothing behind" do
        on_event = fn _event -> raise "no more" end

        assert_raise RuntimeError, "no more", fn ->
          ErlBridge.call(@bridge, :wait, %{}, on_event: on_event, metadata: %{"label" => "raised"})
        end

        assert_stopped("raised")
        assert Live.mailbox() == []
      end
    end

    describe "cancelling" do
      test "by id, from another process" do
        waiting = Live.wait(@bridge, id: {:job, 1})

        assert {:ok, true} = ErlBridge.cancel(@bridge, {:job, 1})

        assert {:error, %Error{type: :cancelled, strategy: :fatal}} =
                 Task.await(waiting, :infinity)

        assert {:ok, false} = ErlBridge.cancel(@bridge, {:job, 1})
      end

      test "a request of async/4" do
        {:ok, request} = ErlBridge.async(@bridge, :wait, %{}, metadata: %{"label" => "async"})

        assert {:ok, true} = ErlBridge.cancel(@bridge, request)
        assert {:error, %Error{type: :cancelled}} = ErlBridge.await(request)
      end

      test "what is not there" do
        assert {:ok, false} = ErlBridge.cancel(@bridge, :never_heard_of)
      end

      test "an id may be in flight once" do
        waiting = Live.wait(@bridge, id: :once)

        assert {:error, %Error{type: :invalid_request} = error} =
                 ErlBridge.call(@bridge, :echo, %{}, id: :once)

        assert Exception.message(error) =~ "a request with the id :once is in flight already"

        assert {:ok, true} = ErlBridge.cancel(@bridge, :once)
        assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
        assert {:ok, %{}} = ErlBridge.call(@bridge, :echo, %{}, id: :once)
      end

      test "a caller that dies cancels its request" do
        waiting = Live.wait(@bridge, metadata: %{"label" => "caller died"})
        Task.shutdown(waiting, :brutal_kill)

        assert_stopped("caller died")
      end
    end

    describe "deadlines" do
      test "are kept by Python, whose answer comes" do
        expire(50)
        assert_stopped("deadline")
      end

      # A handler that has not begun by then is not stopped: it has more time the next time.
      defp expire(timeout) do
        test = self()
        on_event = fn _event -> send(test, :began) end

        assert {:error, %Error{type: :timeout_error, strategy: :retry} = error} =
                 ErlBridge.call(@bridge, :wait, %{},
                   timeout: timeout,
                   on_event: on_event,
                   metadata: %{"label" => "deadline"}
                 )

        # What was left of it when the request was sent.
        assert %{timeout_ms: left} = error.context
        assert left in 1..timeout

        receive do
          :began -> :ok
        after
          0 -> expire(2 * timeout)
        end
      end

      test "are kept here when Python does not answer at all" do
        {bridge, os_pid} = start_with_os_pid!(shutdown_timeout: 50)
        on_exit(fn -> OsProcess.signal(os_pid, "KILL") end)
        OsProcess.signal(os_pid, "STOP")

        assert {:error, %Error{type: :timeout_error} = error} =
                 ErlBridge.call(bridge, :ping, %{}, timeout: 1)

        assert Exception.message(error) == "timeout_error: no answer within 1 ms"
        assert Live.mailbox() == []
      end

      test "the bridge's own is used where the request has none" do
        bridge = start!(timeout: 50)

        assert {:error, %Error{type: :timeout_error, context: %{timeout_ms: timeout}}} =
                 ErlBridge.call(bridge, :wait, %{}, metadata: %{"label" => "default"})

        assert timeout in 1..50
      end

      test "there may be none" do
        {:ok, request} =
          ErlBridge.async(@bridge, :wait, %{}, timeout: :infinity, metadata: %{"label" => "none"})

        assert request.deadline == :infinity
        assert {:ok, true} = ErlBridge.cancel(@bridge, request)
        assert {:error, %Error{type: :cancelled}} = ErlBridge.await(request)
      end
    end

    describe "what is wrong is said" do
      test "an unknown request type, with those there are" do
        assert {:error, %Error{type: :unknown_request, strategy: :fatal} = error} =
                 ErlBridge.call(@bridge, :no_such_type)

        assert Exception.message(error) =~ "no_such_type"
        assert Exception.message(error) =~ "echo"
      end

      test "a payload that does not fit, with the path" do
        assert {:error, %Error{type: :invalid_request} = error} =
                 ErlBridge.call(@bridge, :cancel, %{message_id: 1, mesage: 2})

        assert Exception.message(error) =~ "payload"
        assert Exception.message(error) =~ "mesage"
      end

      test "an exception in Python, with its type and traceback" do
        assert {:error, %Error{type: :python_runtime_error} = error} =
                 ErlBridge.call(@bridge, :fail, %{"message" => "no such thing"})

        assert error.python_type == "ValueError"
        assert error.traceback =~ "bridge_app.py"
        assert Exception.message(error) =~ "no such thing"

        assert_raise Error, ~r/no such thing/, fn ->
          ErlBridge.call!(@bridge, :fail, %{"message" => "no such thing"})
        end
      end

      test "a request that is larger than a frame" do
        bridge = start!(max_frame: 10_000)

        assert {:error, %Error{type: :serialization_error} = error} =
                 ErlBridge.ping(bridge, %{large: :binary.copy("x", 10_000)})

        assert error.context.limit == 10_000
        assert ErlBridge.ping!(bridge, %{large: :binary.copy("x", 9_000)}).large =~ "xxx"
      end

      test "a wrong option" do
        assert_raise ArgumentError, ~r/unknown option :timeot, did you mean :timeout/, fn ->
          ErlBridge.call(@bridge, :echo, %{}, timeot: 1)
        end
      end
    end

    test "a handler that runs in a process of its own" do
      assert {:ok, 42} = ErlBridge.call(@bridge, :double, %{"n" => 21})
    end

    # Python tells of each request that was stopped, once, in the order in which they were.
    defp assert_stopped(label) do
      case ErlBridge.call!(@bridge, :stopped) do
        ^label -> :ok
        _another -> assert_stopped(label)
      end
    end
  end
end
