defmodule ErlBridge.DataFileTest do
  @moduledoc "Files of each format, read by the real Python."
  use ExUnit.Case, async: true
  doctest ErlBridge.DataFile

  import ErlBridge.Live, only: [tmp_dir: 1]

  alias ErlBridge.{DataFile, Error, Live, OsProcess}

  setup :tmp_dir

  defp file(tmp_dir, name, content) do
    path = Path.join(tmp_dir, name)
    File.write!(path, content)
    path
  end

  # A Python that writes its OS process into a file, and holds a pipe open for as long as it lives:
  # `cat`, the other end, ends with it.
  defp watched_python(tmp_dir) do
    pipe = Path.join(tmp_dir, "alive")
    {_output, 0} = System.cmd("mkfifo", [pipe])
    python = System.fetch_env!("ERL_BRIDGE_PYTHON")

    script =
      file(tmp_dir, "python", """
      #!/bin/sh
      echo $$ >'#{tmp_dir}/os_pid'
      exec '#{python}' "$@" 9>'#{pipe}'
      """)

    File.chmod!(script, 0o755)
    cat = {:spawn_executable, System.find_executable("cat")}
    {script, Port.open(cat, [:exit_status, args: [pipe]])}
  end

  defp many_rows(tmp_dir, count) do
    rows = for n <- 1..count, do: [~s({"n": ), Integer.to_string(n), ~s(, "text": "some text"}\n)]
    file(tmp_dir, "many.jsonl", rows)
  end

  describe "read" do
    @good [
      {"a.yaml", "a: 1\nb: [true, null, x, 2024-02-29]",
       %{"a" => 1, "b" => [true, nil, "x", ~D[2024-02-29]]}},
      {"a.yml", "", nil},
      {"a.json", ~s({"a": [1.5, 123456789012345678901234567890]}),
       %{"a" => [1.5, 123_456_789_012_345_678_901_234_567_890]}},
      {"a.jsonl", ~s({"a": 1}\n\n[2]\n), [%{"a" => 1}, [2]]},
      {"a.jsonl", "", []},
      {"a.csv", "name,text\nx,\"one\ntwo\"\ny,é\n",
       [%{"name" => "x", "text" => "one\ntwo"}, %{"name" => "y", "text" => "é"}]},
      {"--help.json", "1", 1}
    ]

    for {{name, content, term}, number} <- Enum.with_index(@good) do
      test "gives what is in #{name} (#{number})", %{tmp_dir: tmp_dir} do
        path = file(tmp_dir, unquote(name), unquote(content))
        assert DataFile.read(path) == {:ok, unquote(Macro.escape(term))}
      end
    end

    test "gives all rows of many batches, in order", %{tmp_dir: tmp_dir} do
      assert {:ok, rows} = DataFile.read(many_rows(tmp_dir, 50_000))
      assert Enum.map(rows, & &1["n"]) == Enum.to_list(1..50_000)
      assert Live.mailbox() == []
    end

    test "takes the format and the limits that it is told", %{tmp_dir: tmp_dir} do
      path = file(tmp_dir, "rows.txt", "a\n12\n")
      assert DataFile.read(path, format: :csv) == {:ok, [%{"a" => "12"}]}
      assert {:error, %Error{} = error} = DataFile.read(path, format: :csv, max_row: 2)
      assert error.message =~ "rows.txt, line 2: the row is over the limit of 2 bytes"
      assert {:error, %Error{} = error} = DataFile.read(path, format: :yaml, max_file: 4)
      assert error.message =~ "over the limit of 4 bytes"
    end

    test "says what is wrong, and where", %{tmp_dir: tmp_dir} do
      path = file(tmp_dir, "a.yaml", "a: 1\na: 2\n")
      assert {:error, %Error{type: :invalid_request} = error} = DataFile.read(path)

      assert error.message ==
               ~s(a.yaml, line 2, column 1: the key "a" is there twice, first at line 1)

      assert %{path: ^path, line: 2, column: 1} = error.context

      assert {:error, %Error{message: message}} = DataFile.read(Path.join(tmp_dir, "none.csv"))
      assert message =~ "none.csv: there is no such file"

      assert {:error, %Error{message: message}} = DataFile.read(Path.join(tmp_dir, "rows.txt"))
      assert message =~ "does not end in one of"

      assert {:error, %Error{message: message}} = DataFile.read("a\0.csv")
      assert message =~ "holds a null byte"
    end

    test "without a Python says what is missing", %{tmp_dir: tmp_dir} do
      path = file(tmp_dir, "a.json", "1")

      assert {:error, %Error{type: :process_crashed} = error} =
               DataFile.read(path, python: "/no/python")

      assert error.message =~ "/no/python is not an executable file"
      assert Live.mailbox() == []
    end

    test "waits no longer than it is told", %{tmp_dir: tmp_dir} do
      {python, cat} = watched_python(tmp_dir)
      pipe = Path.join(tmp_dir, "nobody_writes.json")
      {_output, 0} = System.cmd("mkfifo", [pipe])

      assert {:error, %Error{type: :timeout_error}} =
               DataFile.read(pipe, python: python, timeout: 3_000)

      assert_receive {^cat, {:exit_status, 0}}
    end
  end

  describe "stream!" do
    test "gives rows lazily, in order, with a clean mailbox and no Python left", %{
      tmp_dir: tmp_dir
    } do
      {python, cat} = watched_python(tmp_dir)
      stream = DataFile.stream!(many_rows(tmp_dir, 50_000), python: python)
      assert Enum.map(stream, & &1["n"]) == Enum.to_list(1..50_000)
      assert_receive {^cat, {:exit_status, 0}}
      assert Live.mailbox() == []
    end

    test "that is abandoned leaves no Python", %{tmp_dir: tmp_dir} do
      {python, cat} = watched_python(tmp_dir)
      stream = DataFile.stream!(many_rows(tmp_dir, 50_000), python: python)
      assert [%{"n" => 1}, %{"n" => 2}] = Enum.take(stream, 2)
      assert_receive {^cat, {:exit_status, 0}}
      assert Live.mailbox() == []
    end

    test "whose consumer is killed leaves no Python", %{tmp_dir: tmp_dir} do
      {python, cat} = watched_python(tmp_dir)
      stream = DataFile.stream!(many_rows(tmp_dir, 50_000), python: python)
      test = self()

      consumer =
        spawn(fn ->
          Enum.each(stream, fn _row ->
            send(test, :under_way)
            Process.sleep(:infinity)
          end)
        end)

      assert_receive :under_way
      refute_received {^cat, {:exit_status, _status}}
      Process.exit(consumer, :kill)
      assert_receive {^cat, {:exit_status, 0}}
    end

    test "raises when Python is killed", %{tmp_dir: tmp_dir} do
      {python, cat} = watched_python(tmp_dir)
      stream = DataFile.stream!(many_rows(tmp_dir, 100_000), python: python)

      kill = fn
        %{"n" => 1} ->
          os_pid = tmp_dir |> Path.join("os_pid") |> File.read!() |> String.trim()

          # It has asked for more by now, and asks no more before it has heard how Python ended: to
          # write to one that is gone is another end.
          :sys.get_state(reader())
          OsProcess.signal(String.to_integer(os_pid), "KILL")
          await_ended(reader())

        _row ->
          :ok
      end

      assert_raise Error, ~r/was killed by signal 9/, fn -> Enum.each(stream, kill) end
      assert_receive {^cat, {:exit_status, 0}}
      assert Live.mailbox() == []
    end

    # The process that reads for the calling one watches it.
    defp reader do
      {:monitored_by, watching} = Process.info(self(), :monitored_by)
      reader = {DataFile.Reader, :init, 1}
      Enum.find(watching, &(:proc_lib.translate_initial_call(&1) == reader))
    end

    defp await_ended(reader),
      do: if(:sys.get_state(reader).python, do: await_ended(reader))

    test "holds a few batches of a long file", %{tmp_dir: tmp_dir} do
      path = many_rows(tmp_dir, 400_000)
      assert File.stat!(path).size > 12_000_000

      # In a process of its own, which has made no file.
      most =
        Task.async(fn ->
          path
          |> DataFile.stream!()
          |> Stream.take_every(1_000)
          |> Enum.reduce(0, fn _row, most -> max(most, elem(Process.info(self(), :memory), 1)) end)
        end)
        |> Task.await(:infinity)

      # All rows at once are over 60 MB.
      assert most < 20_000_000
    end

    test "raises where the file is wrong", %{tmp_dir: tmp_dir} do
      rows = DataFile.stream!(file(tmp_dir, "a.jsonl", "{}\n{]\n"))

      assert_raise Error, ~r/a.jsonl, line 2, column 2: not valid JSON/, fn ->
        Enum.to_list(rows)
      end

      document = DataFile.stream!(file(tmp_dir, "a.json", "[]"))

      assert_raise Error, ~r/expected the rows of a JSON Lines or CSV file/, fn ->
        Enum.to_list(document)
      end

      assert_raise ArgumentError, ~r/unknown option :fromat, did you mean :format/, fn ->
        DataFile.stream!("a", fromat: :csv)
      end
    end
  end
end
